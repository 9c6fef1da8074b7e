"""YAML as configuration needs it: plain data, each part written out. Importing this imports PyYAML."""

import yaml


class PlainLoader(yaml.SafeLoader):
    """Makes no objects, and refuses aliases: a few lines of them can stand for gigabytes."""

    def compose_node(self, parent, index):
        """Return the next node; MarkedYAMLError for an alias."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem=f"*{event.anchor} stands for another part, write that out",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)
