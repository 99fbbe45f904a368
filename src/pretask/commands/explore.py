"""Commands that look before anything is trained: list, show, data, preview, shortcuts."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pretask import catalog, config
from pretask.catalogue import taxonomy
from pretask.commands.output import print_json, print_table
from pretask.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="An option of the method, key=value; repeatable.")
]
Data = Annotated[
    str | None, typer.Option("--data", "-d", help="Folder, list, .npz, .zip, parquet, shards or a name.")
]


Reading = Annotated[
    list[str] | None, typer.Option("--read", help="A setting of the data's reader, key=value; repeatable.")
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        help="By what methods for pictures are made of: branch=distillation, asymmetry!=EMA ...; repeatable.",
    ),
]
Modality = Annotated[
    str | None, typer.Option("--modality", help="What to read the data as; default from their files.")
]


def list_(
    modality: Annotated[str | None, typer.Option("--modality", "-m", help="Only this modality.")] = None,
    where: Where = None,
    as_json: Json = False,
) -> None:
    """All methods."""
    if where:
        records = [record._asdict() for record in taxonomy.select(where)]
        if as_json:
            print_json(records)
        else:
            print_table("", taxonomy.Record._fields, [list(record.values()) for record in records])
        return
    known = sorted({row.modality for row in catalog.ROWS})
    if modality is not None and modality not in known:
        raise UsageError(f"no method of modality '{modality}'; there are: {', '.join(known)}")
    rows = [row for row in catalog.ROWS if modality in (None, row.modality)]
    if as_json:
        print_json([row._asdict() for row in rows])
    else:
        print_table(
            "", ("method", "modality", "hides", "asks"), [(r.slug, r.modality, r.hides, r.asks) for r in rows]
        )


def show(slug: str, as_json: Json = False) -> None:
    """One method: its paper, what is hidden and asked, every option."""
    row = catalog.find(slug, "any")
    options = config.options(slug) if row.kind == "task" else []
    if as_json:
        listed = [
            {"name": o.name, "type": o.type_name, "default": o.default, "help": o.help} for o in options
        ]
        print_json({**row._asdict(), "options": listed})
        return
    typer.echo(f"{row.title} ({row.slug}), {row.modality}\n{row.paper}\n")
    typer.echo(f"hidden: {row.hides}\nasked:  {row.asks}")
    if row.kind == "study":
        typer.echo(f"run it: pretask study {slug}")
        return
    typer.echo(f"encoder: {row.encoder} by default ({row.needs})\n")
    print_table(
        "",
        ("option", "type", "default", "meaning"),
        [(o.name, o.type_name, str(o.default), o.help) for o in options],
    )


def data(
    source: Annotated[str, typer.Argument(help="Folder, list, .npz, .zip, parquet, shards or a name.")],
    channels: Annotated[int | None, typer.Option(help="Channels to read pictures as.")] = None,
    modality: Modality = None,
    read: Reading = None,
    as_json: Json = False,
) -> None:
    """What is there: modality, count, sizes, labels, what is broken."""
    from pretask import api

    facts = api.describe_data(source, modality=modality, reading=config.values(read or []), channels=channels)
    if as_json:
        print_json(facts)
    else:
        print_table(str(source), ("", ""), [(key, lines(value)) for key, value in facts.items()])


def lines(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    if isinstance(value, list):
        return "\n".join(lines(item) for item in value)
    return str(value)


def preview(
    slug: str,
    data: Data = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path("sheet.png"),
    run: Annotated[
        Path | None, typer.Option("--run", help="Also show what this run's model answers.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the input in pixels.")] = None,
    rows: Annotated[int, typer.Option(help="Samples to show.")] = 8,
    seed: int = 0,
    read: Reading = None,
    set_: Set = None,
) -> None:
    """What goes in, what is hidden, what is asked."""
    from pretask import api

    path = api.preview(
        slug, data, out=out, run=run, image_size=image_size, rows=rows, seed=seed,
        reading=config.values(read or []), options=config.pairs(set_ or []),
    )  # fmt: skip
    typer.echo(f"wrote {path}")


def shortcuts(
    slug: str,
    data: Data = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the input in pixels.")] = None,
    seed: int = 0,
    read: Reading = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Do trivial statistics (borders, mean colour, JPEG grid ...) already solve the pretext?"""
    from pretask import api

    rows = api.shortcuts(
        slug, data, image_size=image_size, seed=seed, reading=config.values(read or []),
        options=config.pairs(set_ or []),
    )  # fmt: skip
    if as_json:
        print_json(rows)
    elif rows:
        print_table(f"shortcuts of {slug}", tuple(rows[0]), [tuple(row.values()) for row in rows])


def independence(
    slugs: Annotated[list[str], typer.Argument(help="Methods, each judged by itself.")],
    data: Data = None,
    kernel: Annotated[Literal["rbf", "linear"], typer.Option(help="Of the regressions.")] = "rbf",
    image_size: Annotated[int | None, typer.Option(help="Side of the input in pixels.")] = None,
    seed: int = 0,
    read: Reading = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Does a pretext fit a labelled task? How far is what it hides from independent of the rest, given the label?"""
    from pretask import api

    rows = api.independence(
        slugs, data, kernel=kernel, image_size=image_size, seed=seed, reading=config.values(read or []),
        options=config.pairs(set_ or []),
    )  # fmt: skip
    if as_json:
        print_json(rows)
    else:
        columns = ("method", "told", "not by the label (eps_CI^2)", "beta", "by chance", "bound", "lost", "samples")
        cells = [
            (
                row["pretext"], f"{row['explained']:.3f}",
                f"{row['dependence']:.3f} [{row['low']:.3f}, {row['high']:.3f}]", f"{row['beta']:.3f}",
                f"{row['beta_chance']:.3f}", f"{row['bound']:.3g}", f"{row['lost']:.3f}", row["n"],
            )
            for row in rows
        ]  # fmt: skip
        print_table("how much of the hidden part the rest tells, given the label", columns, cells)
        for row in rows:
            typer.echo(f"{row['pretext']}: {row['verdict']}")


COMMANDS = (list_, show, data, preview, shortcuts, independence)
