"""``lightning export RUN``: the weights of a finished run as a file for others."""

import json
from collections.abc import Sequence
from pathlib import Path

from command_parser import CommandParser, at_home
from errors import InputError
from outputs import Outputs


def main(argv: Sequence[str]) -> int:
    """Write the checkpoint, manifest and model card of a run, and check the file."""
    parser = CommandParser(
        prog="lightning export",
        description="Write the weights of a finished run as a small file for others, with a "
        "manifest and a model card beside it. Only runs that were trained on phantoms are taken.",
        examples=[
            "lightning export late_fusion --out weights",
            "lightning export late_fusion --out weights --scores 'real patients=per_case.csv'",
        ],
    )
    parser.add_argument("run", help="folder of a finished run, experiment/id, or an experiment")
    parser.add_argument(
        "--out", type=at_home, required=True, help="folder to write, such as weights"
    )
    parser.add_argument("--name", help="name of the files (default: the experiment's)")
    parser.add_argument(
        "--scores",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="per_case.csv of a test of this run on other patients, and a name for the model card; "
        "may be given more than once",
    )
    parser.add_argument("--runs_dir", type=at_home, default=Path("runs"), help="folder of all runs")
    options = parser.parse_args(list(argv))
    tables = []
    for word in options.scores:
        name, equals, file = word.partition("=")
        if not (name and equals and file):
            raise InputError(f"--scores {word}: expected NAME=FILE, a name and a per_case.csv.")
        tables.append((name, Path(file).expanduser()))
    from studies.runs.recreation import find_run
    from studies.training.lightning_cli import quiet
    from studies.training.shipped import check_shipped, check_size
    from studies.training.shipping import check_equal, exported, model_card

    quiet()
    run = find_run(options.run, options.runs_dir)
    name = options.name or run.experiment
    content, manifest = exported(run, tables)
    outputs = Outputs(options.out, "--out")
    outputs.check([f"{name}.ckpt", f"{name}.json", f"{name}.md"], [run.best_checkpoint])

    def checked(file: Path) -> None:
        file.write_bytes(content)
        check_size(file)
        check_equal(run.best_checkpoint, file)

    checkpoint = outputs.write(f"{name}.ckpt", checked)
    outputs.write(f"{name}.json", json.dumps(manifest, indent=2) + "\n")
    outputs.write(f"{name}.md", model_card(name, manifest))
    check_shipped(checkpoint)
    print(
        f"{checkpoint} ({manifest['megabytes']:g} MB): weights of {run.experiment}/{run.id}, its "
        f"logits equal to the last bit; {name}.json and {name}.md beside it."
    )
    return 0
