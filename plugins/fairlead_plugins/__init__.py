"""The default plugins, loaded through the same entry points as anyone's."""
