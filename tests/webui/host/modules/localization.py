"""The language packs that there are: the files of each name, read in this order, the later ones counting."""

localizations: dict[str, list[str]] = {}
