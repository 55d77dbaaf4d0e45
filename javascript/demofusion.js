// The host shows a component's tooltip on its element, but an accordion that is an input has two elements: the hidden
// checkbox that carries the tooltip, and the accordion that is seen.
onUiLoaded(function() {
    const id = "demofusion_enabled";
    const checkbox = gradio_config.components.find(c => c.props.elem_id === `${id}-checkbox`);
    const accordion = gradioApp().getElementById(id);
    if (checkbox && accordion) {
        accordion.querySelector(".label-wrap").title = checkbox.props.webui_tooltip;
    }
});
