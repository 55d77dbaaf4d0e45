"""The webui's globals."""

import argparse

from modules import options, shared_options, shared_state, shared_total_tqdm, styles

cmd_opts = argparse.Namespace(disable_nan_check=False, no_half=True, api=True, nowebui=False, api_auth=None)
parallel_processing_allowed = True
device = "cpu"
state = shared_state.State()
restricted_opts: set = set()
opts = options.Options(shared_options.options_templates, restricted_opts)
total_tqdm = shared_total_tqdm.TotalTQDM()
sd_model = None
hide_dirs: dict = {}
OptionInfo = options.OptionInfo
prompt_styles = styles.StyleDatabase([])
