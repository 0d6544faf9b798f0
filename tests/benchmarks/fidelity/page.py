"""Page: the text of `docs/fidelity.md`."""


def page(tables: str, constants: str, count: int) -> str:
    """The page, given the tables that the command prints and the fitted constants."""
    return f"{_HEAD}\n{tables}\n\n{_CONSTANTS.format(count=count)}\n\n{constants}\n\n{_TAIL}"


_HEAD = """# Fidelity: predicted against published

This page is written by `make fidelity` (`python -m tests.benchmarks.fidelity --write`), which takes every run of
`tests/benchmarks/data/published_runs.csv`, builds its model on `meta`, asks `autopart.plan` for the same layout,
and compares. `--runs FILE.csv` does the same for any file of that form, `--rows` prints every run, `--fit` fits
the constants anew.

![predicted against measured step times](fidelity.png)

Errors are predicted over measured less one: positive is too slow. *Clean* leaves out the rows that whoever
collected them marks as doubtful, and tensor parallelism across nodes. *Left out* is the clean mean error (and
bias) of an origin when the constants are fitted without any of its runs: what to expect of a new site and stack.
*Memory* is the mean error of peak memory and the number of runs that published one. Of runs with "a fraction of
the blocks" recomputed, which is not published, the least fraction is taken that fits the memory.
"""

_CONSTANTS = """## Fitted constants

There are {count}, none of a row, a source or a model. All other figures of `cost_models/` are from data sheets,
papers or source code, each with its source in the file."""

_TAIL = """\
- `matmul_fraction`: of the peak, sustained on large aligned products. `attention_fraction`: the same of fused
  attention over many keys.
- `bandwidth_fraction`: of the data sheet's memory bandwidth, sustained by elementwise kernels and norms.
- `speed_spread`: standard deviation of the speed of devices; the slowest sets the pace.
- `product_speed`: of a stack's matrix library, relative to the newest. `contention`: by how much kernels slow
  down beside a collective.
- `tensor_overlap`: the share of tensor-parallel communication that is hidden. `device_speed`: what a site's
  devices reach of the others'.
- `inter_node`: of the network's nominal bandwidth, sustained.

## How blind the figures are

The constants were fitted without the runs that are left out, to first order around the fitted values. The formulas
and the files of the stacks were not: what a framework fuses, keeps and overlaps was written with all of these runs in
sight, some of it after looking at their errors (NeMo's gradient dtype, fused kernels and float8 casts, DeepSpeed's
buffers, torchtitan's rotary embedding), and round estimates in those files (dispatch, seconds a step, buffers) are
not counted among the fitted constants. Only runs that nobody here has seen are a blind test. autopart's own runtime
has no published run: the error printed with its plans is the mean over the other stacks, each left out.

## What is missing in the model

- **A site's own speed.** BLOOM's runs are about a fifth slower than other runs on A100s, those on one node without
  any network too; vTrain's, with the same software, are not. The cause is not known, `device_speed` takes it up. Left
  out, such a site is predicted as the others: nothing in the published row tells.
- **FSDP stacks.** torchtitan, fms-fsdp and llm-foundry are slower than their kernels and collectives explain,
  each by 5 to 10 %, which `product_speed` and `contention` take up. Left out, each is predicted too fast. Near
  the memory limit the caching allocator frees and allocates again, which is not modelled (the llm-foundry rows on
  40 GB).
- **Noise inside sweeps.** vTrain's 39.1B rows at tp=4 jump by 20 to 30 % between neighbouring micro-batches; the
  rank correlation of that sweep suffers, the choice does not.
- **Hybrid sharding.** Four runs shard parameters inside a node only; they are planned as sharded over all devices.
- **A published limit.** BLOOM's 206B model did not fit where its 203B model took 67 GB; nothing published tells them
  apart. BLOOM's ten layers on one node ran at 80 GB, within what is held in reserve here. NeMo's 340B is predicted
  to need a fifth more than it had, and why is not known.
- **The loss of tensor-parallel torchtitan.** DTensor's vocabulary-parallel loss makes more copies of the logits than
  are counted: the two 70B runs take a quarter more memory than predicted.
- **The passes of an unfused loss.** Its memory is counted; its kernels are priced as one pass over the logits, where
  torch makes three.
- **The figures left out** are of the last fit, which was before the memory model of fused losses; 108 times
  have moved since, by 3 % at most.
"""
