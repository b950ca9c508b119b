"""Models on GPUs: what fits, what was measured, and the sentence where it was not."""

import pytest

from llmservice_sim.hardware import GPUS, HardwareError, Wanted, arguments, replica_of, weight_bytes

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
MISTRAL = "mistralai/Mistral-7B-Instruct-v0.3"


@pytest.mark.parametrize(
    ("gpu", "model", "blocks"),
    [
        ("rtx4090", LLAMA, 2588),  # bench/data/engine-e2e, vLLM 0.19
        ("rtx6000ada", MISTRAL, 14_733),  # the setting of the SLAI paper
    ],
)
def test_kv_memory_is_near_that_of_real_engines(gpu: str, model: str, blocks: int) -> None:
    assert replica_of(gpu, Wanted(model=model)).limits.kv_blocks == pytest.approx(blocks, rel=0.05)


@pytest.mark.parametrize(
    ("gpu", "model"), [(g, m) for g, found in GPUS.items() for f in found.steps for m in ("org/" + f + "-x",)]
)
def test_every_measured_pair_makes_a_replica(gpu: str, model: str) -> None:
    replica = replica_of(gpu, Wanted(model=model, max_model_len=8192, max_seqs=17, max_batched_tokens=99))
    assert (replica.limits.max_seqs, replica.limits.max_batched_tokens) == (17, 99)
    assert replica.kv_tokens >= 8192


def test_a_step_model_stands_in_for_a_model_that_nobody_measured() -> None:
    assert replica_of("a100-llama-3-8b", Wanted(model="org/Other-9B")).kv_bytes_per_token == 131072


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("meta-llama/Llama-3.1-70B", 70),
        ("Qwen/Qwen2.5-0.5B-Instruct", 0.5),
        ("mistralai/Mixtral-8x7B-v0.1", 56),
        (LLAMA, 8.03),
        ("/models/mine", None),
    ],
)
def test_parameters_are_read_from_the_name(name: str, billions: float | None) -> None:
    assert weight_bytes(name) == (None if billions is None else pytest.approx(2e9 * billions))


@pytest.mark.parametrize(
    ("gpu", "wanted", "words"),
    [
        ("b200", Wanted(model=LLAMA), "no GPU 'b200' was measured: choose one of rtx4090"),
        ("a100", Wanted(model="meta-llama/Llama-3.1-70B"), "needs 140 GB for its weights and a100 has 76 GB to give"),
        ("rtx4090", Wanted(model="org/Big-13B"), "use --gpu rtx6000ada or a100 or h100"),
        ("a100", Wanted(model="Qwen/Qwen2.5-7B"), "no step times of Qwen/Qwen2.5-7B on a100 were measured: name"),
        ("a100", Wanted(model=LLAMA, gpus_per_replica=2), "set gpusPerReplica to 1 (it is 2)"),
        ("rtx4090", Wanted(model=LLAMA, max_model_len=131072), "set maxModelLen to at most"),
        ("rtx4090", Wanted(model=LLAMA, memory_share=0.68), "leaves no memory for KV on rtx4090"),
    ],
)
def test_what_cannot_run_is_said_in_one_sentence(gpu: str, wanted: Wanted, words: str) -> None:
    with pytest.raises(HardwareError) as caught:
        replica_of(gpu, wanted)
    assert words in str(caught.value)


def test_engine_arguments_are_read_in_both_forms() -> None:
    found = arguments(["--max-num-seqs", "8", "--max-model-len=99", "--enforce-eager", "--seed", "1"])
    assert found == {"--max-num-seqs": "8", "--max-model-len": "99", "--enforce-eager": "", "--seed": "1"}
