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

// A run that was refused ends without an error, for which the host would print a traceback; its reason is told among the
// comments, and looks like the error that it is.
onAfterUiUpdate(function() {
    gradioApp().querySelectorAll("#html_log_txt2img .comments").forEach(function(comments) {
        comments.classList.toggle("error", comments.textContent.includes("DemoFusion: not drawn"));
    });
});
