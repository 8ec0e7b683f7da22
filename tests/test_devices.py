from typing import Any

import pytest
import torch

from artistid.foundation.errors import UserError
from artistid.models import devices
from artistid.models.devices import Devices


def available(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_the_fastest_available_device(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, chosen: str
) -> None:
    available(monkeypatch, cuda, mps)
    assert devices._choose("auto") == chosen
    assert devices._choose("cpu") == "cpu"


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_available_is_named(
    monkeypatch: pytest.MonkeyPatch, name: Any
) -> None:
    available(monkeypatch, cuda=False, mps=False)
    with pytest.raises(UserError, match=f"--device {name}: not available to this PyTorch"):
        Devices(name, "auto")


def test_models_of_one_process_may_have_different_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Devices("cpu", "auto").device.type == "cpu"
    monkeypatch.setattr(devices, "_choose", lambda _: "meta")
    assert Devices("auto", "auto").device.type == "meta"


@pytest.mark.parametrize(
    ("able", "precision"),
    [
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"avx512_f": True}, "fp32"),
        (None, "fp32"),  # before torch 2.12
    ],
)
def test_auto_computes_in_bf16_if_the_cpu_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, able: dict[str, bool] | None, precision: str
) -> None:
    if able is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert Devices("cpu", "auto").precision == precision
    assert Devices("cpu", "fp32").precision == "fp32"
    assert str(Devices("cpu", "auto")).endswith(f"threads), {precision}")


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


def test_a_single_process_has_nothing_to_exchange() -> None:
    """Several processes: test_training.py."""
    one = Devices("cpu", "fp32")
    network = torch.nn.Linear(2, 2)
    assert (one.n_processes, one.rank, one.is_main) == (1, 0, True)
    assert one.share(network) is network
    assert one.gather([1, 2]) == [1, 2]
    assert one.from_main({"a": 1}) == {"a": 1}
