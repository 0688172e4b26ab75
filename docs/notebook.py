"""Write examples/analysis.ipynb from examples/analysis.py, with a cell for each `# %%` line.

`python docs/notebook.py` writes it (`make docs`); a test fails if it is out of step.
"""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

FOLDER = Path(__file__).parent.parent / "examples"


def notebook() -> nbformat.NotebookNode:
    """Return the notebook, without outputs."""
    docstring, *cells = (FOLDER / "analysis.py").read_text(encoding="utf-8").split("# %% ")
    title, _, intro = docstring.strip().strip('"').partition("\n")
    nodes = [new_markdown_cell(f"# {title}\n{intro}".strip())]
    for cell in cells:
        heading, _, code = cell.partition("\n")
        nodes += [new_markdown_cell(f"## {heading}"), new_code_cell(code.strip())]
    for number, node in enumerate(nodes):
        node.id = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=nodes, metadata={"kernelspec": kernel})


if __name__ == "__main__":
    nbformat.write(notebook(), FOLDER / "analysis.ipynb")
