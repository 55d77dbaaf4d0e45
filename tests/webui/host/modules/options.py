"""The settings page."""

from __future__ import annotations


class _Info:
    def __init__(self, default=None):
        self.default = default


class OptionInfo(_Info):
    def __init__(
        self, default=None, label="", component=None, component_args=None, onchange=None, section=None,
        refresh=None, comment_before="", comment_after="", infotext=None, restrict_api=False, category_id=None,
    ):  # fmt: skip
        super().__init__(default)
        self.label, self.component, self.component_args = label, component, component_args
        self.section, self.restrict_api, self.comment_after = section, restrict_api, comment_after

    def info(self, info):
        self.comment_after += info
        return self


class Options:
    def __init__(self, data_labels: dict[str, _Info], restricted_opts):
        self.__dict__.update(data_labels=data_labels, restricted_opts=restricted_opts)
        self.__dict__["data"] = {key: info.default for key, info in data_labels.items()}

    def __setattr__(self, key, value):
        assert key in self.data_labels, f"the webui has no option {key}"
        self.data[key] = value

    def __getattr__(self, item):
        if item in self.__dict__["data"]:
            return self.__dict__["data"][item]
        raise AttributeError(item)

    def set(self, key, value, is_api=False, run_callbacks=True):
        setattr(self, key, value)
        return True

    def get_default(self, key):
        return self.data_labels[key].default

    def add_option(self, key, info):
        self.data_labels[key] = info
        self.data.setdefault(key, info.default)
