"""The site's home page is the README, and SECURITY.md is a page of it, so that their texts exist only once."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that lie outside of this folder, their links as seen from here."""
    for name, page in {"README.md": "index.md", "SECURITY.md": "security.md"}.items():
        text = Path(config.config_file_path).with_name(name).read_text("utf-8")
        text = text.replace("](docs/", "](").replace("](SECURITY.md", "](security.md")
        files.append(File.generated(config, page, content=text))
    return files
