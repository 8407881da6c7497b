"""The offline engine: equal to plain PyTorch, to itself however the batch is cut, and resumable."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from trueup.errors import TrueupError, UserError
from trueup.models import LanguageModel, load
from trueup.objectives import objective
from trueup.training import TrainingConfig, train

ROWS = [
    {
        "prompt": f"Question {number}: " + "why " * (number % 4),
        "chosen": "because " * (1 + number % 3) + f"of {number}",
        "rejected": "no " * (1 + number % 5),
    }
    for number in range(24)
]
CONFIG = TrainingConfig(batch_size=8, epochs=2, learning_rate=1e-3, save_every=2)


def fresh(folder: Path) -> LanguageModel:
    return load(folder, device="cpu")


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def run(folder: Path, out: Path, name: str = "dpo", **changes) -> pd.DataFrame:
    config = TrainingConfig(
        **{**CONFIG.as_dict(), "betas": CONFIG.betas, "lora_targets": (), "trackers": (), **changes}
    )
    return train(fresh(folder), objective(name), ROWS, config=config, out=out).steps


def test_step_zero_is_ln_2_when_the_policy_is_the_reference(
    tiny_model_folder: Path, tmp_path: Path
):
    steps = run(tiny_model_folder, tmp_path / "out")
    assert steps["loss"].iloc[0] == pytest.approx(0.693147181, abs=1e-6)
    assert steps["loss"].iloc[-1] < 0.6


@pytest.mark.parametrize("name", ["dpo", "sft"])
def test_cutting_the_batch_changes_nothing(name: str, tiny_model_folder: Path, tmp_path: Path):
    rows = ROWS
    if name == "sft":
        rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in ROWS]
    losses = []
    for budget in (100_000, 40):
        config = TrainingConfig(batch_size=8, learning_rate=1e-3, save_every=0, token_budget=budget)
        result = train(
            fresh(tiny_model_folder),
            objective(name),
            rows,
            config=config,
            out=tmp_path / str(budget),
        )
        losses.append(result.steps["loss"].to_numpy())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_losses_equal_a_plain_loop(tiny_model_folder: Path, tmp_path: Path):
    """Five steps of DPO by hand: whole passes, torch's AdamW, a constant rate."""
    config = TrainingConfig(
        batch_size=8,
        steps=5,
        epochs=2,
        learning_rate=1e-3,
        schedule="constant",
        warmup=0.0,
        shuffle=False,
        save_every=0,
    )
    ours = train(
        fresh(tiny_model_folder), objective("dpo"), ROWS, config=config, out=tmp_path / "out"
    ).steps["loss"]
    lm, frozen = fresh(tiny_model_folder), fresh(tiny_model_folder)

    def logp(model, prompt: list[int], completion: list[int]) -> torch.Tensor:
        ids = torch.tensor([[*prompt, *completion]])
        table = model.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        picked = table.gather(1, ids[0, 1:, None])[:, 0]
        return picked[len(prompt) - 1 :].sum()

    optimiser = torch.optim.AdamW(lm.model.parameters(), lr=1e-3, weight_decay=0.0)
    expected = []
    for step in range(5):
        batch = [ROWS[(8 * step + k) % 24] for k in range(8)]
        losses = []
        for row in batch:
            group = lm.encode(row["prompt"], [row["chosen"], row["rejected"]], add_eos=True)
            ratios = []
            for completion in group.completions:
                with torch.no_grad():
                    reference = logp(frozen, group.prompt, completion)
                ratios.append(logp(lm, group.prompt, completion) - reference)
            losses.append(-torch.nn.functional.logsigmoid(0.1 * (ratios[0] - ratios[1])))
        loss = torch.stack(losses).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.model.parameters(), 1.0)
        optimiser.step()
        expected.append(float(loss.detach()))
    assert list(ours) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_ten_kills_end_with_the_same_bits(tiny_model_folder: Path, tmp_path: Path):
    """`kill -9` at random moments, then resume: weights and step table are those of no kill."""
    torch.set_num_threads(1)
    calm = tmp_path / "calm"
    expected = run(tiny_model_folder, calm, epochs=4)
    rng = random.Random(0)
    for kill in range(10):
        out = tmp_path / f"killed-{kill}"
        _killed_at_random(tiny_model_folder, out, rng)
        config = TrainingConfig(batch_size=8, epochs=4, learning_rate=1e-3, save_every=2)
        again = train(
            fresh(tiny_model_folder), objective("dpo"), ROWS, config=config, out=out, resume=True
        )
        assert weights(out) == weights(calm)
        pd.testing.assert_frame_equal(again.steps, expected, check_exact=True)


def _killed_at_random(folder: Path, out: Path, rng: random.Random) -> None:
    """Train in a forked process and kill it at a random step, some moments later."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        config = TrainingConfig(batch_size=8, epochs=4, learning_rate=1e-3, save_every=2)

        def tell(progress) -> None:
            if progress.stage == "training":
                os.write(writer, b"x")

        try:
            train(fresh(folder), objective("dpo"), ROWS, config=config, out=out, progress=tell)
        finally:
            os._exit(0)
    os.close(writer)
    for _ in range(rng.randrange(1, 12)):
        if not os.read(reader, 1):
            break
    time.sleep(rng.random() * 0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reader)


TWO = """
import json, sys
from pathlib import Path
from trueup.models import load
from trueup.objectives import objective
from trueup.training import TrainingConfig, train
folder, out, rows, name = sys.argv[1:5]
config = TrainingConfig(batch_size=8, learning_rate=1e-3, save_every=0)
result = train(load(folder, device="cpu"), objective(name), json.loads(Path(rows).read_text()),
               config=config, out=Path(out))
import os
if os.environ.get("RANK", "0") == "0":
    Path(out + ".losses").write_text(json.dumps(result.steps["loss"].tolist()))
    Path(out + ".processes").write_text(os.environ.get("WORLD_SIZE", "1"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpo", "sft"])
def test_two_processes_give_the_losses_of_one(name: str, tiny_model_folder: Path, tmp_path: Path):
    rows = ROWS[:20]  # the last batch has four rows, two for each process
    if name == "sft":
        rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    script, data = tmp_path / "two.py", tmp_path / "rows.json"
    script.write_text(TWO)
    data.write_text(json.dumps(rows))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    losses = {}
    for kind, words in (("one", []), ("two", launch)):
        out = tmp_path / kind
        done = subprocess.run(
            [
                sys.executable,
                *words,
                str(script),
                str(tiny_model_folder),
                str(out),
                str(data),
                name,
            ],
            check=False,
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        losses[kind] = json.loads(Path(f"{out}.losses").read_text())
        assert Path(f"{out}.processes").read_text() == {"one": "1", "two": "2"}[kind]
    assert losses["two"] == pytest.approx(losses["one"], abs=1e-5)


def test_a_loss_that_is_not_finite_stops_in_one_line(tiny_model_folder: Path, tmp_path: Path):
    lm = fresh(tiny_model_folder)
    with torch.no_grad():
        lm.model.lm_head.weight[5] = float("nan")
    with pytest.raises(TrueupError, match="step 1") as caught:
        train(lm, objective("sft"), _completions(), config=CONFIG, out=tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_lora_reference_is_the_base_model(tiny_model_folder: Path, tmp_path: Path):
    steps = run(tiny_model_folder, tmp_path / "out", lora_r=4, learning_rate=1e-2)
    assert steps["loss"].iloc[0] == pytest.approx(0.693147181, abs=1e-6)
    assert steps["loss"].iloc[-1] < steps["loss"].iloc[0]
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_resuming_with_other_settings_is_refused(tiny_model_folder: Path, tmp_path: Path):
    run(tiny_model_folder, tmp_path / "out")
    config = TrainingConfig(batch_size=4, epochs=2, learning_rate=1e-3, save_every=2)
    with pytest.raises(UserError, match="batch_size"):
        train(
            fresh(tiny_model_folder),
            objective("dpo"),
            ROWS,
            config=config,
            out=tmp_path / "out",
            resume=True,
        )


def test_gradient_checkpointing_changes_nothing(tiny_model_folder: Path, tmp_path: Path):
    plain = run(tiny_model_folder, tmp_path / "plain")
    saving = run(tiny_model_folder, tmp_path / "saving", gradient_checkpointing=True)
    assert list(saving["loss"]) == pytest.approx(list(plain["loss"]), abs=1e-6)


def _completions() -> list[dict[str, str]]:
    return [{"prompt": row["prompt"], "completion": row["chosen"]} for row in ROWS]
