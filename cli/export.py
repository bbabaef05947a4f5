"""`edgecompress export`: one network as a checked ONNX file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from . import show
from .verb import Json, example, verb, writable


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "export",
        epilog=example(
            "edgecompress export efficientnet_lite0.in1k --out lite0.onnx",
            "edgecompress export out/demo/cascade/efficientnet_lite2.pt --out lite2.onnx",
        ),
    )(_export)


@verb
def _export(
    network: Annotated[
        str, typer.Argument(help="A pretrained name, or a .pt file of a cascade folder.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The ONNX file to write.")],
    as_json: Json = False,
) -> Any:
    """Write one network as ONNX and compare it with PyTorch through ONNX Runtime."""
    writable(out)
    import torch

    from edgecompress.files import writing

    from ..compress.networks.export import export_network, load_network
    from ..compress.networks.pretrained import load_pretrained

    file = Path(network)
    is_file = file.suffix == ".pt"
    spec, module = load_network(file.parent, file.stem) if is_file else load_pretrained(network)
    no_photos = torch.zeros(0, 3, spec.resolution, spec.resolution)
    with writing(out) as temporary:
        check = export_network(module, spec, temporary, no_photos)
    if not as_json:
        show.say(
            f"{out}: {spec.macs / 1e6:.1f} M MACs, {spec.params / 1e6:.2f} M parameters; "
            f"ONNX Runtime differs from PyTorch by {check.max_abs_error:.2g} at most "
            f"({check.max_rel_error:.2g} of the largest output, {check.inputs} inputs)"
        )
    return {"file": str(out), "macs": spec.macs, "params": spec.params, **asdict(check)}
