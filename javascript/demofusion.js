// What the accordions need in the browser: the live line, mistakes beside their fields, the target's two buttons, and names
// and keys for what gradio leaves without. No figure is reckoned here; `webui/forecast.py` knows them all.

// One of the two: `name` is the host's tab, `elements` what stands between `demofusion_` or `demofusion-` and a name in ids.
function demofusionTab(name, elements) {
    const QUIET_MS = 10; // to gather what changes at once; while an answer is awaited nothing more is asked
    const LOST_MS = 5000; // after so long without an answer there will be none
    const PREFIX = `demofusion_${elements && elements + "_"}`;
    let timer = null;
    let asked = 0; // when, while an answer is awaited
    let again = false;
    let ratio = 0; // width over height that the lock keeps, 0 where it is open

    const byId = (id) => gradioApp().getElementById(id);
    const root = () => byId(`${PREFIX}enabled`);
    const element = (id) => byId(`demofusion-${elements && elements + "-"}${id}`);
    const part = (setting) => byId(PREFIX + setting);
    const nameOf = (block) => block.id.slice(PREFIX.length);
    const settings = () => root()?.querySelectorAll(`[id^=${PREFIX}]`) || [];
    const numberOf = (setting) => part(setting)?.querySelector("input[type=number]");
    const isOn = () => Boolean(byId(`${PREFIX}enabled-checkbox`)?.querySelector("input")?.checked);

    // The live line

    function changed() {
        dimScale();
        clearTimeout(timer);
        timer = setTimeout(ask, QUIET_MS);
    }

    function ask() {
        if (!isOn()) {
            show({});
            return;
        }
        if (asked && Date.now() - asked < LOST_MS) {
            again = true;
            return;
        }
        again = false;
        asked = Date.now();
        element("ask").click();
    }

    // What a question is asked with: the values of its inputs, then of its output. The last input is what is seen here.
    function asking(values) {
        return [...values.slice(0, -2), elements ? demofusionPicture.seen() : null];
    }

    function told(answer) {
        asked = 0;
        show(isOn() ? answer || {} : {});
        if (again) ask();
    }

    function show(answer) {
        const line = root()?.querySelector(".demofusion-line");
        const mistakes = Object.entries(answer.mistakes || {});
        const hidden = mistakes.filter(([name]) => !beside(name)).map(([name, text]) => inItsLabelsWords(name, text));
        mistakesBeside(answer.mistakes || {});
        const rows = [
            ["figures" + (answer.amber ? " amber" : ""), unbroken(answer.line || "")],
            ...hidden.map((text) => ["wrong", text]),
            ...(answer.said || []).map((text) => ["said" + (answer.amber ? " amber" : ""), text]),
        ].filter(([, text]) => text);
        const html = rows.map(([kind, text]) => kind + text).join("\n");
        if (line && line.dataset.shown !== html) {
            line.dataset.shown = html;
            line.replaceChildren(...rows.map(([kind, text]) => make("p", kind, text)));
        }
        if ("sdxl" in answer) part("sdxl_size")?.classList.toggle("demofusion-absent", answer.sdxl === false);
    }

    // a line may break between two figures, and not within one
    function unbroken(text) {
        return text.split(" · ").map((figure) => figure.includes("->") ? figure : figure.replaceAll(" ", "\u00a0")).join(" · ");
    }

    function make(tag, kind, text) {
        const made = document.createElement(tag);
        made.className = kind;
        made.textContent = text;
        return made;
    }

    // Mistakes

    // whether a setting's field can be seen
    function beside(name) {
        return Boolean(part(name)?.getClientRects().length);
    }

    function mistakesBeside(mistakes) {
        root()?.querySelectorAll(".demofusion-wrong").forEach(function(block) {
            if (!mistakes[nameOf(block)]) setMistake(block, "");
        });
        Object.entries(mistakes).forEach(function([name, text]) {
            if (part(name)) setMistake(part(name), inItsLabelsWords(name, text));
        });
    }

    // the label as it is shown, in another language say
    function inItsLabelsWords(name, text) {
        const label = gradio_config.components.find((c) => c.props.elem_id === PREFIX + name)?.props.label;
        const shown = part(name)?.querySelector("[data-testid=block-info]")?.textContent.trim();
        return label && shown && text.startsWith(label) ? shown + text.slice(label.length) : text;
    }

    function setMistake(block, text) {
        let mistake = block.querySelector(".demofusion-mistake");
        const field = block.querySelector("input, textarea");
        block.classList.toggle("demofusion-wrong", Boolean(text));
        if (!text) {
            mistake?.remove();
            field?.removeAttribute("aria-invalid");
            field?.removeAttribute("aria-describedby");
            return;
        }
        if (!mistake) {
            mistake = block.appendChild(make("div", "demofusion-mistake", ""));
            mistake.id = `${block.id}-mistake`;
            mistake.setAttribute("role", "alert");
        }
        if (mistake.textContent !== text) mistake.textContent = text;
        field?.setAttribute("aria-invalid", "true");
        field?.setAttribute("aria-describedby", mistake.id);
    }

    // A slider's number that is out of range would be turned into the nearest one when the field is left. It stays as it was
    // typed, is said to be wrong, and is refused.
    function keepAsTyped(event) {
        const field = event.target;
        if (!field.matches?.("input[type=number]")) return;
        const value = parseFloat(field.value);
        if (!(value >= parseFloat(field.min) && value <= parseFloat(field.max))) event.stopPropagation();
    }

    // The target

    function set(name, value) {
        const field = numberOf(name);
        if (!field || field.value === String(value)) return;
        field.value = value;
        updateInput(field);
    }

    const sizeOf = (name) => parseFloat(numberOf(name)?.value) || 0;

    function switchSides() {
        const [width, height] = [sizeOf("target_width"), sizeOf("target_height")];
        if (ratio) ratio = 1 / ratio;
        set("target_width", height);
        set("target_height", width);
    }

    function toggleLock() {
        const lock = element("target-lock");
        ratio = ratio ? 0 : ratioNow();
        lock.setAttribute("aria-pressed", String(Boolean(ratio)));
    }

    function ratioNow() {
        const ofTab = ["width", "height"].map((side) => parseFloat(byId(`${name}_${side}`)?.querySelector("input[type=number]")?.value) || 0);
        const base = elements && demofusionPicture.seen().size || ofTab;
        const [width, height] = [sizeOf("target_width"), sizeOf("target_height")];
        return width && height ? width / height : base[0] && base[1] ? base[0] / base[1] : 1;
    }

    // Only what a person does: pasting sets both sides by itself.
    function keepRatio(event) {
        if (!ratio || !event.isTrusted) return;
        const block = event.target.closest(`[id^=${PREFIX}target_]`);
        if (!block) return;
        const value = parseFloat(event.target.value) || 0;
        const [other, factor] = nameOf(block) === "target_width" ? ["target_height", 1 / ratio] : ["target_width", ratio];
        set(other, Math.round(value * factor / 8) * 8);
    }

    function dimScale() {
        part("scale")?.classList.toggle("demofusion-dim", Boolean(sizeOf("target_width") || sizeOf("target_height")));
    }

    // Names and keys

    function nameFields(accordion) {
        settings().forEach(function(block) {
            const label = block.querySelector("[data-testid=block-info]");
            if (!label) return;
            label.id = `${block.id}-label`;
            block.querySelectorAll("input[type=number], input[role], input:not([type]), textarea").forEach(function(field) {
                field.setAttribute("aria-labelledby", label.id);
            });
            if (block.querySelector("input[type=radio]")) {
                block.setAttribute("role", "radiogroup");
                block.setAttribute("aria-labelledby", label.id);
            }
        });
        // the host translates what is added to the page, and not the tooltips that it puts there itself
        const beside = gradioApp().querySelectorAll(`#${name}_demofusion_upscale`);
        [accordion.querySelector(".label-wrap"), ...accordion.querySelectorAll("[title]"), ...beside].forEach(function(titled) {
            titled.title = (hasLocalization() && getTranslation(titled.title)) || titled.title;
        });
        [...accordion.querySelectorAll("button.tool"), ...beside].forEach((button) => button.setAttribute("aria-label", button.title));
        element("target-lock").setAttribute("aria-pressed", "false");
        const title = accordion.querySelector(".label-wrap > span");
        title.id = `${PREFIX}enabled-label`;
        byId(`${PREFIX}enabled-visible-checkbox`).setAttribute("aria-labelledby", title.id);
    }

    // gradio's accordions open by a click alone
    function openByKey(handle, label, labelledBy) {
        const header = label.closest(".label-wrap");
        handle.setAttribute("role", "button");
        handle.tabIndex = 0;
        if (labelledBy) handle.setAttribute("aria-labelledby", labelledBy);
        const tell = () => handle.setAttribute("aria-expanded", String(header.classList.contains("open")));
        new MutationObserver(tell).observe(header, {attributes: true, attributeFilter: ["class"]});
        tell();
        handle.addEventListener("keydown", function(event) {
            if (event.key !== "Enter" && event.key !== " ") return;
            event.preventDefault();
            header.click();
        });
    }

    function setUp() {
        const accordion = root();
        const checkbox = gradio_config.components.find((c) => c.props.elem_id === `${PREFIX}enabled-checkbox`);
        if (!accordion || !checkbox) return;
        // The host shows a component's tooltip on its element, but an accordion that is an input has two elements: the hidden
        // checkbox that carries the tooltip, and the accordion that is seen.
        accordion.querySelector(".label-wrap").title = checkbox.props.webui_tooltip;
        nameFields(accordion);
        const icon = accordion.querySelector(".label-wrap > .icon");
        openByKey(icon, icon, `${PREFIX}enabled-label`);
        accordion.querySelectorAll(".demofusion-group .label-wrap").forEach((header) => openByKey(header, header));
        accordion.addEventListener("blur", keepAsTyped, true);
        accordion.addEventListener("input", keepRatio);
        element("target-switch").addEventListener("click", switchSides);
        element("target-lock").addEventListener("click", toggleLock);
        changed();
    }

    return {changed, asking, told, setUp};
}

// What is seen over the img2img tab's accordion. The picture itself is not sent for the line.
const demofusionPicture = (function() {
    // the host's images by their tabs' places; the last tab has files instead
    const IMAGES = ["img2img_image", "img2img_sketch", "img2maskimg", "inpaint_sketch", "img_inpaint_base"];
    let before = "";

    // `{tab, size, by}`, as `webui/seen.py` tells
    function seen() {
        const tab = get_tab_index("mode_img2img");
        const image = gradioApp().querySelector(`#${IMAGES[tab] || "none"} img`);
        const size = image?.naturalWidth ? [image.naturalWidth, image.naturalHeight] : null;
        return {tab, size, by: get_tab_index("img2img_tabs_resize") === 1};
    }

    function look() {
        const now = JSON.stringify(seen());
        if (now === before) return;
        before = now;
        demofusionPage.img2img.changed();
    }

    function setUp() {
        const places = ["mode_img2img", "img2img_tabs_resize"].map((id) => gradioApp().getElementById(id));
        if (places.includes(null)) return;
        const watched = {childList: true, subtree: true, attributes: true, attributeFilter: ["src", "class", "style"]};
        places.forEach((place) => new MutationObserver(look).observe(place, watched));
        places[0].addEventListener("load", look, true); // an image has its size when it is loaded
    }

    return {seen, setUp};
})();

const demofusionPage = {txt2img: demofusionTab("txt2img", ""), img2img: demofusionTab("img2img", "img2img")};

onUiLoaded(function() {
    demofusionPicture.setUp();
    Object.values(demofusionPage).forEach((tab) => tab.setUp());
});

let demofusionCheckpoint = null;
onOptionsChanged(function() {
    const chosen = opts.sd_model_checkpoint;
    if (demofusionCheckpoint !== null && demofusionCheckpoint !== chosen) {
        Object.values(demofusionPage).forEach((tab) => tab.changed());
    }
    demofusionCheckpoint = chosen;
});

// A run that was refused ends without an error, for which the host would print a traceback; its reason is told among the
// comments, and looks like the error that it is.
onAfterUiUpdate(function() {
    gradioApp().querySelectorAll("[id^=html_log_] .comments").forEach(function(comments) {
        comments.classList.toggle("error", comments.textContent.includes("DemoFusion: not drawn"));
    });
});
