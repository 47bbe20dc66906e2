"""Metadata that follow from where the source is: the project's links, and a README whose links and figures lead there."""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface


class Links(MetadataHookInterface):
    """Reads `repository` of pyproject.toml. Where it is empty there are no links, and the README is as it stands."""

    def update(self, metadata):
        """Sets `urls` and `readme`."""
        repository = self.config["repository"]
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        if repository:
            files = {"Documentation": "docs/index.md", "Changelog": "CHANGELOG.md"}
            urls = {"Source": repository, "Issues": f"{repository}/issues"}
            metadata["urls"] = urls | {name: f"{repository}/blob/HEAD/{file}" for name, file in files.items()}
            text = absolute(text, repository)
        else:
            metadata["urls"] = {}
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def absolute(text, repository):
    """Markdown with every link to a file of the repository made absolute; figures as they are, pages as they are shown."""
    text = re.sub(r"!\[([^\]]*)\]\((?!https?:)([^)]+)\)", rf"![\1]({repository}/raw/HEAD/\2)", text)
    return re.sub(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)", rf"[\1]({repository}/blob/HEAD/\2)", text)
