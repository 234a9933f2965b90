"""Kernels against their literal oracles: outputs and every gradient by name, packing, errors, unused experts."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from kernels import selective_scan_cpu as scan_module
from kernels.causal_conv1d import causal_conv1d, causal_conv1d_reference
from kernels.expert_dispatch import expert_dispatch, expert_dispatch_assigned, expert_dispatch_reference, expert_forward
from kernels.expert_layers import ExpertLayer, ExpertParams, transformer_layer
from kernels.selective_scan import selective_scan, selective_scan_reference

LENGTHS = [(1,), (63,), (257,), (1, 63, 0, 193), (0, 0, 5, 1, 1, 0)]


def cu_seqlens_of(lengths):
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


def leaves(tensors):
    return {name: t.detach().clone().requires_grad_() for name, t in tensors.items()}


def assert_same_with_gradients(function, oracle, tensors, rtol=1e-9, **options):
    """Compare the outputs, then the gradients of a random projection of them, by the argument's name."""
    found_in, expected_in = leaves(tensors), leaves(tensors)
    found, expected = function(**found_in, **options), oracle(**expected_in, **options)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol)
    direction = torch.randn_like(expected)
    (found * direction).sum().backward()
    (expected * direction).sum().backward()
    for name, leaf in found_in.items():
        reference = expected_in[name].grad
        assert leaf.grad is not None, name
        expected_grad = torch.zeros_like(leaf) if reference is None else reference
        scale = expected_grad.abs().max().clamp(min=1)
        torch.testing.assert_close(leaf.grad / scale, expected_grad / scale, rtol=0, atol=rtol, msg=lambda m, n=name: f"{n}: {m}")


def scan_inputs(P, D=6, N=4, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=dtype)

    return {
        "u_PD": draw(P, D),
        "delta_PD": draw(P, D),
        "A_DN": -torch.exp(draw(D, N)),
        "B_PN": draw(P, N),
        "C_PN": draw(P, N),
        "D_D": draw(D),
        "z_PD": draw(P, D),
        "delta_bias_D": draw(D),
    }


class TestSelectiveScan:
    @pytest.mark.parametrize("lengths", LENGTHS)
    def test_outputs_and_every_gradient(self, lengths, monkeypatch):
        # Blocks of 40 tokens, the shortest there are, so that states pass from block to block.
        monkeypatch.setattr(scan_module, "_BLOCK_ELEMENTS", 0)
        tensors = scan_inputs(sum(lengths))
        assert_same_with_gradients(selective_scan, selective_scan_reference, tensors, cu_seqlens=cu_seqlens_of(lengths))

    @pytest.mark.parametrize("left_out", [("D_D",), ("z_PD",), ("delta_bias_D",), ("D_D", "z_PD", "delta_bias_D")])
    @pytest.mark.parametrize("softplus", [True, False])
    def test_optional_arguments(self, left_out, softplus):
        tensors = {name: t for name, t in scan_inputs(37).items() if name not in left_out}
        if not softplus:
            tensors["delta_PD"] = tensors["delta_PD"].abs()
        assert_same_with_gradients(selective_scan, selective_scan_reference, tensors, delta_softplus=softplus)

    def test_first_step_by_hand(self):
        one = torch.ones(1, 1)
        y = selective_scan(2 * one, 3 * one, -one, 5 * one, 7 * one, D_D=torch.tensor([11.0]), delta_softplus=False)
        assert y.item() == 3 * 2 * 5 * 7 + 11 * 2

    def test_packed_equals_separate(self):
        lengths = (1, 63, 257)
        tensors = scan_inputs(sum(lengths), dtype=torch.float32)
        packed = selective_scan(**tensors, cu_seqlens=cu_seqlens_of(lengths))
        per_token = {"u_PD", "delta_PD", "B_PN", "C_PN", "z_PD"}
        for s, (start, end) in enumerate(itertools.pairwise(cu_seqlens_of(lengths).tolist())):
            own = {name: t[start:end] if name in per_token else t for name, t in tensors.items()}
            torch.testing.assert_close(packed[start:end], selective_scan(**own), rtol=1e-6, atol=1e-6, msg=f"sequence {s}")

    def test_nothing_before_a_boundary_has_a_gradient_from_after_it(self):
        tensors = leaves(scan_inputs(20))
        selective_scan(**tensors, cu_seqlens=cu_seqlens_of((8, 12)))[8:].sum().backward()
        for name in ("u_PD", "delta_PD", "B_PN", "C_PN", "z_PD"):
            assert torch.count_nonzero(tensors[name].grad[:8]) == 0, name

    def test_gradcheck(self):
        tensors = scan_inputs(5, D=2, N=3)
        names = list(tensors)

        def scan(*values):
            return selective_scan(**dict(zip(names, values, strict=True)), cu_seqlens=cu_seqlens_of((2, 3)))

        assert torch.autograd.gradcheck(scan, tuple(leaves(tensors).values()))

    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2)])
    def test_error_against_float64(self, dtype, tolerance):
        exact = {name: t.to(dtype).double() for name, t in scan_inputs(257, D=32, N=16).items()}
        expected = selective_scan_reference(**exact)
        found = selective_scan(**{name: t.to(dtype) for name, t in exact.items()})
        assert found.dtype == dtype
        assert (found.double() - expected).norm() / expected.norm() < tolerance

    def test_float32_gradients_against_float64(self):
        tensors = scan_inputs(257, D=32, N=16)
        low, high = leaves({name: t.float() for name, t in tensors.items()}), leaves(tensors)
        selective_scan(**low).sum().backward()
        selective_scan(**high).sum().backward()
        for name, leaf in low.items():
            assert (leaf.grad.double() - high[name].grad).norm() / high[name].grad.norm() < 1e-5, name

    def test_repeatable_bit_by_bit(self):
        runs = []
        for _ in range(2):
            tensors = leaves(scan_inputs(257, D=32, N=16, dtype=torch.float32))
            y = selective_scan(**tensors, cu_seqlens=cu_seqlens_of((100, 157)))
            y.sum().backward()
            runs.append([y, *(t.grad for t in tensors.values())])
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))

    def test_large_steps_stay_finite(self):
        tensors = leaves(scan_inputs(300, dtype=torch.float32) | {"delta_PD": torch.full((300, 6), 20.0)})
        y = selective_scan(**tensors)
        y.sum().backward()
        assert torch.isfinite(y).all()
        assert all(torch.isfinite(t.grad).all() for t in tensors.values())

    def test_saved_for_backward_is_at_most_one_kib_a_token(self):
        saved = []
        tensors = leaves(scan_inputs(256, D=512, N=16, dtype=torch.float32))
        inputs = {t.data_ptr() for t in tensors.values()}

        def pack(t):
            if t.data_ptr() not in inputs:
                saved.append(t.numel() * t.element_size())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            selective_scan(**tensors)
        assert 0 < sum(saved) / 256 <= 1000

    @pytest.mark.parametrize("cu_seqlens", [None, torch.tensor([0]), torch.tensor([0, 0, 0])])
    def test_no_tokens(self, cu_seqlens):
        tensors = leaves(scan_inputs(0))
        y = selective_scan(**tensors, cu_seqlens=cu_seqlens)
        assert y.shape == (0, 6)
        y.sum().backward()
        assert all(torch.count_nonzero(t.grad) == 0 for t in tensors.values())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"delta_PD": torch.zeros(3, 6)}, "delta_PD: shape"),
            ({"B_PN": torch.zeros(4, 5)}, "B_PN: shape"),
            ({"D_D": torch.zeros(5)}, "D_D: shape"),
            ({"A_DN": torch.zeros(6)}, "A_DN: shape"),
            ({"u_PD": torch.zeros(4, 6, dtype=torch.int64)}, "u_PD"),
            ({"z_PD": torch.zeros(4, 6, dtype=torch.float64)}, "z_PD: torch.float64, expected torch.float32"),
            ({"A_DN": torch.zeros(6, 4, dtype=torch.float64)}, "A_DN: torch.float64"),
            ({"cu_seqlens": torch.tensor([1, 4])}, "cu_seqlens: starts at 1, expected 0"),
            ({"cu_seqlens": torch.tensor([0, 3])}, "cu_seqlens: ends at 3, expected the number of tokens, 4"),
            ({"cu_seqlens": torch.tensor([0, 3, 2, 4])}, "cu_seqlens: decreases from 3 to 2 at sequence 1"),
            ({"cu_seqlens": torch.tensor([0.0, 4.0])}, "cu_seqlens: torch.float32"),
            ({"cu_seqlens": torch.tensor([], dtype=torch.int32)}, "cu_seqlens"),
        ],
    )
    @pytest.mark.parametrize("function", [selective_scan, selective_scan_reference])
    def test_errors(self, function, change, message):
        with pytest.raises(ValueError, match=message):
            function(**(scan_inputs(4, dtype=torch.float32) | change))


class TestCausalConv1d:
    @pytest.mark.parametrize("lengths", [*LENGTHS, (2, 1, 3)])
    @pytest.mark.parametrize("activation", ["silu", None])
    def test_outputs_and_every_gradient(self, lengths, activation):
        g = torch.Generator().manual_seed(1)
        shapes = {"x_PD": (sum(lengths), 3), "weight_DK": (3, 4), "bias_D": (3,)}
        tensors = {name: torch.randn(shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}
        options = {"cu_seqlens": cu_seqlens_of(lengths), "activation": activation}
        assert_same_with_gradients(causal_conv1d, causal_conv1d_reference, tensors, **options)

    def test_boundaries_by_hand(self):
        x = torch.tensor([[1.0], [2.0], [4.0], [8.0], [16.0]])
        weight = torch.tensor([[100.0, 10.0, 1.0]])  # two back, one back, itself
        y = causal_conv1d(x, weight, torch.zeros(1), cu_seqlens=torch.tensor([0, 2, 5]))
        assert y.squeeze(1).tolist() == [1, 12, 4, 48, 496]

    def test_agrees_with_conv1d_on_one_sequence(self):
        x, weight, bias = torch.randn(20, 3), torch.randn(3, 4), torch.randn(3)
        expected = F.conv1d(F.pad(x.T, (3, 0))[None], weight[:, None], bias, groups=3)[0].T
        torch.testing.assert_close(causal_conv1d(x, weight, bias), expected)

    def test_no_bias_one_tap_and_no_tokens(self):
        x = torch.randn(5, 3)
        torch.testing.assert_close(causal_conv1d(x, torch.ones(3, 1), None, cu_seqlens=torch.tensor([0, 2, 5])), x)
        assert causal_conv1d(x[:0], torch.ones(3, 4), torch.zeros(3)).shape == (0, 3)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"x_PD": torch.zeros(5)}, "x_PD"),
            ({"weight_DK": torch.zeros(2, 4)}, "weight_DK: shape"),
            ({"bias_D": torch.zeros(2)}, "bias_D: shape"),
            ({"bias_D": torch.zeros(3, dtype=torch.float64)}, "bias_D: torch.float64"),
            ({"activation": "relu"}, "activation: 'relu'"),
            ({"cu_seqlens": torch.tensor([0, 4])}, "cu_seqlens: ends at 4"),
        ],
    )
    def test_errors(self, change, message):
        right = {"x_PD": torch.zeros(5, 3), "weight_DK": torch.zeros(3, 4), "bias_D": torch.zeros(3)}
        with pytest.raises(ValueError, match=message):
            causal_conv1d(**(right | change))


HEADS = 2


def make_expert(rank, width=8, depth=2, seed=0, final_norm=False):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return (torch.randn(*shape, generator=g, dtype=torch.float64) * 0.5).requires_grad_()

    R = HEADS * rank
    layers = tuple(
        ExpertLayer(
            norm1_weight=draw(width),
            norm1_bias=draw(width),
            qkv_weight=draw(3 * R, width),
            out_weight=draw(width, R),
            out_bias=draw(width),
            norm2_weight=draw(width),
            norm2_bias=draw(width),
            fc1_weight=draw(rank, width),
            fc1_bias=draw(rank),
            fc2_weight=draw(width, rank),
            fc2_bias=draw(width),
        )
        for _ in range(depth)
    )
    return ExpertParams(draw(width), layers, (draw(width), draw(width)) if final_norm else None)


def named_tensors(params):
    named = {"cls": params.cls}
    for i, layer in enumerate(params.layers):
        named |= {f"layer{i}.{name}": t for name, t in layer._asdict().items()}
    for name, t in zip(("weight", "bias"), params.final_norm or (), strict=False):
        named[f"final_norm.{name}"] = t
    return named


def gradients_of(function, tokens, experts, weights):
    """Return the output and the gradients, by name, of a fixed projection of it."""
    named = {f"expert{e}.{name}": t for e, p in enumerate(experts) for name, t in named_tensors(p).items()}
    named |= {"tokens": tokens.detach().clone().requires_grad_(), "weights": weights.detach().clone().requires_grad_()}
    for t in named.values():
        t.grad = None
    out = function(named["tokens"], experts, named["weights"], HEADS)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return out.detach(), {name: t.grad for name, t in named.items()}


class TestExpertDispatch:
    # Rank 3 on width 8 takes the ordinary attention, 16 (and many tokens) the one with merged weights; 4 is in between.
    RANKS = (3, 4, 16, 16)

    def routed(self, num_cases=40):
        g = torch.Generator().manual_seed(5)
        tokens = torch.randn(num_cases, 3, 8, generator=g, dtype=torch.float64)
        weights = torch.rand(num_cases, 4, generator=g, dtype=torch.float64)
        weights[:, 3] = 0  # nobody asks expert 3
        weights[torch.rand(num_cases, 4, generator=g) < 0.3] = 0
        weights[0] = 0  # and case 0 asks nobody
        return tokens, weights

    @pytest.mark.parametrize("depth", [1, 2, 3])
    @pytest.mark.parametrize("final_norm", [False, True])
    def test_outputs_and_every_gradient(self, depth, final_norm):
        tokens, weights = self.routed()
        experts = [make_expert(r, depth=depth, seed=e, final_norm=final_norm) for e, r in enumerate(self.RANKS)]
        found, found_grads = gradients_of(expert_dispatch, tokens, experts, weights)
        expected, expected_grads = gradients_of(expert_dispatch_reference, tokens, experts, weights)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        assert torch.count_nonzero(found[0]) == 0
        for name, expected_grad in expected_grads.items():
            if name.startswith("expert3."):
                assert expected_grad is None, name
                assert found_grads[name] is None, name
            else:
                torch.testing.assert_close(
                    found_grads[name], expected_grad, rtol=1e-8, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}"
                )
        assert torch.count_nonzero(found_grads["weights"][weights == 0]) == 0

    def test_merged_attention_is_taken_and_agrees(self, monkeypatch):
        from kernels import expert_layers as module

        tokens, _ = self.routed()
        layer = make_expert(16).layers[0]
        merged = transformer_layer(tokens, layer, HEADS)
        monkeypatch.setattr(module, "_merged_attention", lambda *_: pytest.fail("merged attention on one token"))
        one_by_one = torch.cat([transformer_layer(x[None], layer, HEADS) for x in tokens])
        torch.testing.assert_close(merged, one_by_one, rtol=1e-10, atol=1e-10)
        with pytest.raises(pytest.fail.Exception, match="merged"):
            transformer_layer(tokens, layer, HEADS)

    def test_expert_forward_is_a_dispatch_of_weight_one(self):
        tokens, _ = self.routed(6)
        expert = make_expert(3, final_norm=True)
        expected = expert_dispatch_reference(tokens, [expert], torch.ones(6, 1, dtype=torch.float64), HEADS)
        torch.testing.assert_close(expert_forward(tokens, expert, HEADS), expected, rtol=1e-10, atol=1e-10)

    def test_assigned_equals_one_hot_weights(self):
        tokens, _ = self.routed(7)
        experts = [make_expert(3, seed=e) for e in range(4)]
        expert_B = torch.tensor([2, 0, 2, 3, 0, 2, 3])
        weight_B = torch.linspace(-1, 2.5, 7, dtype=torch.float64)
        one_hot = F.one_hot(expert_B, 4) * weight_B[:, None]
        expected, expected_grads = gradients_of(expert_dispatch_reference, tokens, experts, one_hot)

        def assigned(x, params, weights, heads):
            return expert_dispatch_assigned(x, params, expert_B, weights.gather(1, expert_B[:, None]).squeeze(1), heads)

        found, found_grads = gradients_of(assigned, tokens, experts, one_hot)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        for name, grad in expected_grads.items():
            assert (grad is None) == (found_grads[name] is None) == name.startswith("expert1."), name
            if grad is not None:
                torch.testing.assert_close(found_grads[name], grad, rtol=1e-8, atol=1e-8)

    def test_assigned_weight_of_zero_still_has_a_gradient(self):
        weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        tokens = torch.randn(1, 3, 8, dtype=torch.float64)
        expert_dispatch_assigned(tokens, [make_expert(3)], torch.tensor([0]), weight, HEADS).sum().backward()
        assert weight.grad is not None
        assert weight.grad.item() != 0

    def test_no_cases_and_no_pairs(self):
        experts = [make_expert(3)]
        none = expert_dispatch(torch.zeros(0, 3, 8), experts, torch.zeros(0, 1), HEADS)
        assert none.shape == (0, 8)
        assert expert_dispatch_reference(torch.zeros(0, 3, 8), experts, torch.zeros(0, 1), HEADS).shape == (0, 8)
        nobody = expert_dispatch(torch.ones(2, 3, 8), experts, torch.zeros(2, 1), HEADS)
        assert torch.count_nonzero(nobody) == 0

    def test_gradcheck(self):
        expert = make_expert(2, width=4, depth=2)
        tokens = torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True)
        weights = torch.tensor([[0.5], [1.5]], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, w: expert_dispatch(x, [expert], w, HEADS), (tokens, weights))

    def test_errors(self):
        tokens, weights = self.routed(4)
        experts = [make_expert(r) for r in self.RANKS]
        with pytest.raises(ValueError, match="weights_BE: shape"):
            expert_dispatch(tokens, experts, weights[:, :3], HEADS)
        with pytest.raises(ValueError, match="tokens_BTD: shape"):
            expert_dispatch(tokens[0], experts, weights, HEADS)
        with pytest.raises(ValueError, match="expert 0: CLS of shape"):
            expert_dispatch(tokens[..., :7], experts, weights, HEADS)
        with pytest.raises(ValueError, match="expert 0: qkv weight has 18 rows"):
            expert_dispatch(tokens, experts, weights, 4)
        with pytest.raises(ValueError, match="expert 1: no layers"):
            expert_dispatch(tokens, [experts[0], ExpertParams(experts[0].cls, ())], weights[:, :2], HEADS)
        with pytest.raises(ValueError, match="expert_B: largest id is 4"):
            expert_dispatch_assigned(tokens, experts, torch.tensor([0, 1, 2, 4]), weights[:, 0], HEADS)
        with pytest.raises(ValueError, match="weight_B: shape"):
            expert_dispatch_assigned(tokens, experts, torch.tensor([0, 1, 2, 3]), weights[:2, 0], HEADS)
