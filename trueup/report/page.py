"""The page: one HTML file with its style and pictures inside, made from a `ReportInput`."""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from trueup.files import write_text
from trueup.report import wording
from trueup.report.content import ReportInput
from trueup.report.sections import sections


def write_report(report: ReportInput, path: str | Path) -> Path:
    """Write the page to the file `path`, or as report.html into the folder `path`; give its place.

    Raises: UserError where the place cannot be written.
    """
    file = Path(path)
    file = file if file.suffix == ".html" else file / "report.html"
    write_text(file, render(report))
    return file


def render(report: ReportInput) -> str:
    """The page as text, the same for the same input."""
    environment = Environment(
        loader=PackageLoader("trueup.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": wording.number,
        "count": wording.count,
        "p_value": wording.p_value,
        "value_of": wording.value_of,
        "cell": wording.plain_text,
    }
    environment.globals |= {"bounds": wording.bounds, "standing": wording.standing}
    css = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    template = environment.get_template("page.html.jinja")
    page = template.render(style=Markup(css), **sections(report))
    return "\n".join(line.rstrip() for line in page.splitlines() if line.strip()) + "\n"
