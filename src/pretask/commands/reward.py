"""Commands of reinforcement learning with verifiable rewards: puzzles, reinforce."""

from pathlib import Path
from typing import Annotated

import typer

from pretask import config
from pretask.commands.explore import Data, Set
from pretask.commands.learn import Overwrite, Resume
from pretask.commands.output import SCORE_COLUMNS, print_table, score_rows


def puzzles(
    slug: Annotated[str, typer.Argument(help="A method that poses puzzles: visual-jigsaw.")],
    data: Data = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder.")] = Path("puzzles"),
    limit: Annotated[int | None, typer.Option(help="Samples of the data, at most.")] = None,
    seed: int = 0,
    set_: Set = None,
    show: Annotated[bool, typer.Option("--show", help="Only list what --set can set.")] = False,
) -> None:
    """Pretexts as questions with an answer that can be verified: a data set for trl."""
    from pretask import api
    from pretask.puzzles.makers import MAKERS
    from pretask.puzzles.write import make_maker

    options = config.pairs(set_ or [])
    if show:
        make_maker(slug, options)
        rows = [(o.name, o.type_name, str(o.default), o.help) for o in config.options_of(MAKERS[slug])]
        print_table("", ("option", "type", "default", "meaning"), rows)
        return
    written = api.write_puzzles(slug, data, out, options=options, limit=limit, seed=seed)
    typer.echo(f"wrote {written.puzzles} puzzles to {written.folder} ({len(written.files)} parquet files)")
    for path, reason in written.skipped[:5]:
        typer.echo(f"left out {path}: {reason}")
    if len(written.skipped) > 5:
        typer.echo(f"left out {len(written.skipped) - 5} more")


def reinforce(
    run: Annotated[Path, typer.Argument(help="A run folder of a method that poses puzzles.")],
    data: Data = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Run folder; default RUN-grpo.")] = None,
    steps: Annotated[int, typer.Option(help="Updates.")] = 500,
    prompts: Annotated[int, typer.Option(help="Questions a step.")] = 16,
    rollouts: Annotated[int, typer.Option(help="Answers to each question.")] = 16,
    lr: Annotated[float, typer.Option(help="Learning rate, constant.")] = 3e-4,
    temperature: Annotated[float, typer.Option(help="That answers are sampled with.")] = 1.0,
    clip: Annotated[float, typer.Option(help="How far probabilities' ratio may go from 1.")] = 0.2,
    kl: Annotated[float, typer.Option(help="Weight of the divergence from the policy at the start.")] = 0.0,
    reward: Annotated[
        list[str] | None, typer.Option("--reward", help="A setting of the reward, key=value; repeatable.")
    ] = None,
    seed: int = 0,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Go on from a run by GRPO: the policy answers puzzles and is paid by their verifier."""
    from pretask import api

    found = api.reinforce(
        run, data, out, steps=steps, prompts=prompts, rollouts=rollouts, lr=lr, temperature=temperature,
        clip=clip, kl=kl, rewards=config.values(reward or []), seed=seed, resume=resume, overwrite=overwrite,
    )  # fmt: skip
    print_table("what the encoder is worth", SCORE_COLUMNS, score_rows(found.scores))
    rewards = [row["reward"] for row in found.metrics if "reward" in row]
    typer.echo(f"\nreward: {rewards[0]:.4f} at first, {rewards[-1]:.4f} in the end\nrun:    {found.folder}")


COMMANDS = (puzzles, reinforce)
