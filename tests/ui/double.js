// What our JavaScript finds in the webui's page, in a few lines of its own: when the page is there, what has changed, tooltips,
// and accordions that are inputs.
const opts = {sd_model_checkpoint: "tiny"};
const whenLoaded = [];
const whenUpdated = [];
const gradioApp = () => document;
const onUiLoaded = (callback) => whenLoaded.push(callback);
const onAfterUiUpdate = (callback) => whenUpdated.push(callback);
const onOptionsChanged = () => {};
const hasLocalization = () => false;
const getTranslation = () => undefined;
const updateInput = (field) => field.dispatchEvent(new Event("input", {bubbles: true}));

function get_tab_index(tabs) {
    const buttons = [...document.querySelector(`#${tabs} > .tab-nav`).querySelectorAll("button")];
    return Math.max(0, buttons.findIndex((button) => button.classList.contains("selected")));
}

function showTooltips() {
    for (const {props} of gradio_config.components) {
        const shown = props.elem_id && document.getElementById(props.elem_id);
        if (shown && props.webui_tooltip) shown.title = props.webui_tooltip;
    }
}

// Ticked is open, until somebody ticks or unticks the box itself.
function makeInput(accordion) {
    const header = accordion.querySelector(".label-wrap");
    const hidden = document.querySelector(`#${accordion.id}-checkbox input`);
    const box = document.createElement("input");
    let linked = true;
    const isOpen = () => header.classList.contains("open");
    const tell = () => {
        if (linked && isOpen() !== box.checked) header.click();
        hidden.checked = box.checked;
        updateInput(hidden);
    };
    box.type = "checkbox";
    box.id = `${accordion.id}-visible-checkbox`;
    box.addEventListener("click", (event) => {
        linked = false;
        event.stopPropagation();
    });
    box.addEventListener("input", tell);
    header.querySelector("span").prepend(box);
    new MutationObserver(() => {
        if (!linked) return;
        box.checked = isOpen();
        tell();
    }).observe(header, {attributes: true, attributeFilter: ["class"]});
}

new MutationObserver((_, observer) => {
    if (!document.getElementById("img2img_gallery")) return;
    observer.disconnect();
    showTooltips();
    for (const hidden of document.querySelectorAll("[id$=-checkbox]")) {
        const accordion = document.getElementById(hidden.id.slice(0, -"-checkbox".length));
        if (accordion) makeInput(accordion);
    }
    whenLoaded.forEach((callback) => callback());
    new MutationObserver(() => whenUpdated.forEach((callback) => callback())).observe(document, {childList: true, subtree: true});
    document.body.dataset.ready = "yes";
}).observe(document, {childList: true, subtree: true});
