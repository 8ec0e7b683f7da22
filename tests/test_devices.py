from typing import Any

import pytest
import torch

from artistid.inference import devices
from artistid.models.devices import Devices


def test_auto_takes_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, mps, chosen in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert devices._choose("auto") == chosen
        assert devices._choose("cpu") == "cpu"


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_named(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"--device {name}: this PyTorch .* sees no such device"):
        Devices(name, "auto")


@pytest.mark.parametrize(
    ("able", "precision"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx512_f": True}, "fp32")],
)
def test_the_cpus_precision_is_what_it_has_instructions_for(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert Devices("cpu", "auto").precision == precision
    assert Devices("cpu", "fp32").precision == "fp32"
    assert f"{precision}, 1 process" in str(Devices("cpu", "auto"))


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16")])
def test_autocast_computes_in_that_precision(precision: Any, dtype: str) -> None:
    with Devices("cpu", precision).autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == getattr(torch, dtype)


def test_seeded_draws_the_same_and_leaves_no_trace() -> None:
    one = Devices("cpu", "fp32")
    before = torch.random.get_rng_state()
    drawn = []
    for seed in (5, 5, 6):
        with one.seeded(seed):
            drawn.append(torch.rand(4))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_one_process_is_alone() -> None:
    one = Devices("cpu", "fp32")
    network = torch.nn.Linear(2, 2)
    assert (one.n_processes, one.rank, one.is_main) == (1, 0, True)
    assert one.share(network) is network
    assert one.gather([1, 2]) == [1, 2]
    assert one.from_main({"a": 1}) == {"a": 1}
