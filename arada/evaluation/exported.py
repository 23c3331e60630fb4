"""A trained network as one file, for programs that know nothing of this project."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from etils import epath
from jax import export as jax_export

from arada.errors import UserError
from arada.evaluation import predictions
from arada.runs import trained
from arada.runs import workdir as workdirs
from arada.runtime import files

# Where a program of `jax.export` runs.
PLATFORMS = ("cpu", "cuda", "tpu")


def export(run: epath.PathLike, file: epath.PathLike, *, temperature: bool = False, dtype: str = "uint8") -> epath.Path:
    """Writes the network of a run, normalisation inside, to `file`; returns the file's path.

    A name that ends in .safetensors gets the arrays alone, by path: params/..., batch_stats/..., normalization/....
    Any other gets a program: `jax.export.deserialize(bytes).call(images)` takes images [B, H, W, C], any B, and returns
    logits float32[B, Z], on CPU, GPU and TPU alike. An ensemble's are the logarithm of its mean probabilities.

    Args:
      run: the folder of a trained run.
      file: what is written.
      temperature: whether the logits are divided by the temperature that the run's validation predictions ask for.
      dtype: of the images: "uint8", or "float32" in [0, 1].

    Raises UserError for a run without weights, or without predictions where a temperature is asked for.
    """
    run, file = files.absolute(run), files.absolute(file)
    logits_fn, variables = trained.load(run)
    if file.suffix == ".safetensors":
        if temperature:
            raise UserError(
                f"{file}: a .safetensors file holds weights alone; ask for the temperature with another name"
            )
        arrays = flax.traverse_util.flatten_dict(jax.device_get(dict(variables)), sep="/")
        arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
        files.write_bytes(file, safetensors.numpy.save(arrays))
        return file
    if dtype not in ("uint8", "float32"):
        raise UserError(f"dtype is {dtype!r}; images are 'uint8', or 'float32' in [0, 1]")
    divisor = _temperature(run) if temperature else 1.0

    def logits(images):
        return (logits_fn(variables, images) / divisor).astype(jnp.float32)

    shape = (*jax_export.symbolic_shape("batch"), *workdirs.stored_config(run).data.image_shape)
    program = jax_export.export(jax.jit(logits), platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, dtype))
    files.write_bytes(file, bytes(program.serialize()))
    return file


def _temperature(run: epath.Path) -> float:
    """The temperature of a run, fitted on the validation predictions of its workdir."""
    directory = run.parents[2] / "predictions" / run.parent.name / run.name
    fitted = predictions.fitted(directory)
    if not fitted:
        raise UserError(
            f"{directory} has no validation predictions to fit a temperature on; run --stage=evaluate first"
        )
    return fitted["temperature"].temperature
