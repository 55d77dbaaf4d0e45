// What the accordion needs in the browser: the live line, mistakes beside their fields, the target's two buttons, and names
// and keys for what gradio leaves without. No figure is reckoned here; `webui/forecast.py` knows them all.
const demofusionPage = (function() {
    const QUIET_MS = 10; // to gather what changes at once; while an answer is awaited nothing more is asked
    const LOST_MS = 5000; // after so long without an answer there will be none
    let timer = null;
    let asked = 0; // when, while an answer is awaited
    let again = false;
    let ratio = 0; // width over height that the lock keeps, 0 where it is open
    let checkpoint = null;

    const find = (selector) => gradioApp().querySelector(selector);
    const part = (name) => gradioApp().getElementById(`demofusion_${name}`);
    const numberOf = (name) => part(name)?.querySelector("input[type=number]");
    const isOn = () => Boolean(find("#demofusion_enabled-checkbox input")?.checked);

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
        find("#demofusion-ask").click();
    }

    function told(answer) {
        asked = 0;
        show(isOn() ? answer || {} : {});
        if (again) ask();
    }

    function show(answer) {
        const line = find(".demofusion-line");
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
            line.replaceChildren(...rows.map(([kind, text]) => element("p", kind, text)));
        }
        if ("sdxl" in answer) part("sdxl_size")?.classList.toggle("demofusion-absent", answer.sdxl === false);
    }

    // a line may break between two figures, and not within one
    function unbroken(text) {
        return text.split(" · ").map((figure) => figure.includes("->") ? figure : figure.replaceAll(" ", "\u00a0")).join(" · ");
    }

    function element(tag, kind, text) {
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
        gradioApp().querySelectorAll("[id^=demofusion_].demofusion-wrong").forEach(function(block) {
            if (!mistakes[block.id.slice("demofusion_".length)]) setMistake(block, "");
        });
        Object.entries(mistakes).forEach(function([name, text]) {
            if (part(name)) setMistake(part(name), inItsLabelsWords(name, text));
        });
    }

    // the label as it is shown, in another language say
    function inItsLabelsWords(name, text) {
        const label = gradio_config.components.find((c) => c.props.elem_id === `demofusion_${name}`)?.props.label;
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
            mistake = block.appendChild(element("div", "demofusion-mistake", ""));
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
        const lock = find("#demofusion-target-lock");
        ratio = ratio ? 0 : ratioNow();
        lock.setAttribute("aria-pressed", String(Boolean(ratio)));
    }

    function ratioNow() {
        const base = ["width", "height"].map((side) => parseFloat(find(`#txt2img_${side} input[type=number]`)?.value) || 0);
        const [width, height] = [sizeOf("target_width"), sizeOf("target_height")];
        return width && height ? width / height : base[0] && base[1] ? base[0] / base[1] : 1;
    }

    // Only what a person does: pasting sets both sides by itself.
    function keepRatio(event) {
        if (!ratio || !event.isTrusted) return;
        const name = event.target.closest("[id^=demofusion_target_]")?.id.slice("demofusion_".length);
        if (!name) return;
        const value = parseFloat(event.target.value) || 0;
        const [other, factor] = name === "target_width" ? ["target_height", 1 / ratio] : ["target_width", ratio];
        set(other, Math.round(value * factor / 8) * 8);
    }

    function dimScale() {
        part("scale")?.classList.toggle("demofusion-dim", Boolean(sizeOf("target_width") || sizeOf("target_height")));
    }

    // Names and keys

    function nameFields(accordion) {
        accordion.querySelectorAll("[id^=demofusion_]").forEach(function(block) {
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
        [accordion.querySelector(".label-wrap"), ...accordion.querySelectorAll("[title]")].forEach(function(titled) {
            titled.title = (hasLocalization() && getTranslation(titled.title)) || titled.title;
        });
        accordion.querySelectorAll("button.tool").forEach((button) => button.setAttribute("aria-label", button.title));
        find("#demofusion-target-lock").setAttribute("aria-pressed", "false");
        const box = find("#demofusion_enabled-visible-checkbox");
        const name = accordion.querySelector(".label-wrap > span");
        name.id = "demofusion_enabled-label";
        box.setAttribute("aria-labelledby", name.id);
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
        const accordion = gradioApp().getElementById("demofusion_enabled");
        const checkbox = gradio_config.components.find((c) => c.props.elem_id === "demofusion_enabled-checkbox");
        if (!accordion || !checkbox) return;
        // The host shows a component's tooltip on its element, but an accordion that is an input has two elements: the hidden
        // checkbox that carries the tooltip, and the accordion that is seen.
        accordion.querySelector(".label-wrap").title = checkbox.props.webui_tooltip;
        nameFields(accordion);
        const icon = accordion.querySelector(".label-wrap > .icon");
        openByKey(icon, icon, "demofusion_enabled-label");
        accordion.querySelectorAll(".demofusion-group .label-wrap").forEach((header) => openByKey(header, header));
        accordion.addEventListener("blur", keepAsTyped, true);
        accordion.addEventListener("input", keepRatio);
        find("#demofusion-target-switch").addEventListener("click", switchSides);
        find("#demofusion-target-lock").addEventListener("click", toggleLock);
        changed();
    }

    function optionsChanged() {
        if (checkpoint !== null && checkpoint !== opts.sd_model_checkpoint) changed();
        checkpoint = opts.sd_model_checkpoint;
    }

    return {changed, told, setUp, optionsChanged};
})();

onUiLoaded(demofusionPage.setUp);
onOptionsChanged(demofusionPage.optionsChanged);

// A run that was refused ends without an error, for which the host would print a traceback; its reason is told among the
// comments, and looks like the error that it is.
onAfterUiUpdate(function() {
    gradioApp().querySelectorAll("#html_log_txt2img .comments").forEach(function(comments) {
        comments.classList.toggle("error", comments.textContent.includes("DemoFusion: not drawn"));
    });
});
