import pytest
import torch

from aer_lightning.data.engines.attention import use_fused_norms


class PlainRMSNorm(torch.nn.Module):
    """As Llama's and Qwen's."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(0.5, 2, 16, dtype=dtype))
        self.variance_epsilon = 1e-6

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


class GemmaLikeRMSNorm(PlainRMSNorm):
    def forward(self, x):
        return super().forward(x) * (1 + 1 / self.weight)


@pytest.mark.parametrize("kind", ["qwen3", "llama", "gemma3"])
def test_a_models_logits_stay_the_same(folders, kind):
    import copy

    model = folders(kind)[1]
    fast = copy.deepcopy(model)
    use_fused_norms(fast)
    ids = torch.randint(0, 20, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(fast(input_ids=ids).logits, model(input_ids=ids).logits, rtol=1e-5, atol=1e-5)


def test_only_norms_that_give_the_same_are_replaced():
    model = torch.nn.ModuleList([PlainRMSNorm(), GemmaLikeRMSNorm(), PlainRMSNorm(torch.bfloat16), torch.nn.LayerNorm(16)])
    use_fused_norms(model)
    assert ["forward" in vars(module) for module in model] == [True, False, False, False]
    x = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model[0](x), PlainRMSNorm()(x))


def test_weights_that_change_later_are_used():
    norm = PlainRMSNorm()
    use_fused_norms(torch.nn.ModuleList([norm]))
    x = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    norm.weight.data = torch.full((16,), 3.0)
    fresh = PlainRMSNorm()
    fresh.weight.data.fill_(3.0)
    torch.testing.assert_close(norm(x), fresh(x))
