"""A hook of mkdocs: a list of contents on top of long pages. extra.css shows it on the screens that have no sidebar."""

LONG = 6  # sections


def on_page_markdown(markdown, **_):
    """Puts the marker of Markdown's `toc` below the title."""
    if markdown.count("\n## ") < LONG:
        return markdown
    title, rest = markdown.split("\n", 1)
    return f"{title}\n\n[TOC]\n{rest}"
