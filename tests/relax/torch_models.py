"""Small models of every kind that the frontends are for; needs torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(28, 17), nn.ReLU(inplace=True), nn.Dropout(0.3),
            nn.Linear(17, 10, bias=False), nn.Softmax(dim=-1),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class ResidualBlock(nn.Module):
    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.down = None
        if stride != 1 or inside != out:
            self.down = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False),
                                      nn.BatchNorm2d(out))  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.down is None else self.down(x)
        return self.relu(y)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8),
                                  nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))  # fmt: skip
        self.layers = nn.Sequential(ResidualBlock(8, 8, 1), ResidualBlock(8, 12, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.layers(self.stem(x)))
        return self.fc(torch.flatten(x, 1))


class MobileBlock(nn.Module):
    """The inverted residual of MobileNetV2, and the activation of V3."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(6, 18, 1, bias=False), nn.BatchNorm2d(18), nn.ReLU6(inplace=True),
            nn.Conv2d(18, 18, 3, 1, 1, groups=18, bias=False), nn.BatchNorm2d(18),
            nn.ReLU6(inplace=True), nn.Conv2d(18, 6, 1, bias=False), nn.BatchNorm2d(6),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x + self.body(x)
        return F.hardswish(y).mean([2, 3]) + F.avg_pool2d(y, 4).mean((2, 3))


class BertLayer(nn.Module):
    def __init__(self, size: int = 24, heads: int = 3) -> None:
        super().__init__()
        self.heads = heads
        self.words = nn.Embedding(50, size)
        self.places = nn.Embedding(16, size)
        self.query, self.key, self.value, self.out = (nn.Linear(size, size) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(size, eps=1e-12), nn.LayerNorm(size)
        self.wide, self.narrow = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        places = torch.arange(tokens.shape[1]).unsqueeze(0)
        x = self.words(tokens) + self.places(places)
        q, k, v = (self.split(f(x)) for f in (self.query, self.key, self.value))
        bias = (1.0 - mask[:, None, None, :].to(x.dtype)) * -10000.0
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias
        y = (scores.softmax(-1) @ v).transpose(1, 2).contiguous().view(x.shape)
        x = self.norm1(x + self.out(y))
        x = self.norm2(x + self.narrow(F.gelu(self.wide(x))))
        return x, torch.tanh(x[:, 0])


class GptLayer(nn.Module):
    """One step of a decoder: new tokens look at those of the cache and at each other."""

    def __init__(self, size: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.RMSNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.gate, self.up = (nn.Linear(size, 3 * size, bias=False) for _ in range(2))
        self.down = nn.Linear(3 * size, size, bias=False)

    def forward(
        self, x: torch.Tensor, cache: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        b, n, size = x.shape
        parts = self.qkv(self.norm1(x)).split(size, dim=2)
        q, k, v = (p.view(b, n, self.heads, -1).transpose(1, 2) for p in parts)
        k, v = torch.cat([cache[0], k], dim=2), torch.cat([cache[1], v], dim=2)
        total = k.shape[2]
        seen = torch.ones(n, total, dtype=torch.bool).tril(total - n)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.out(y.transpose(1, 2).reshape(b, n, size))
        h = self.norm2(x)
        x = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return x + F.gelu(h, approximate="tanh"), (k, v)


def _new(kind: type[nn.Module], seed: int = 0) -> nn.Module:
    """A model with random weights, and statistics that are not those of a fresh one."""
    torch.manual_seed(seed)
    model = kind().eval()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.3)
            m.running_var.uniform_(0.5, 2)
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, 0, 0.3)
    return model


def models() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """(model, arguments) by name."""
    torch.manual_seed(1)
    cache = (torch.randn(2, 4, 5, 4), torch.randn(2, 4, 5, 4))
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[1, 4:] = 0
    return {
        "mlp": (_new(Mlp), (torch.randn(3, 4, 7),)),
        "resnet": (_new(ResNet), (torch.randn(1, 3, 33, 32),)),
        "mobilenet": (_new(MobileBlock), (torch.randn(2, 6, 8, 8),)),
        "bert": (_new(BertLayer), (torch.randint(0, 50, (2, 7)), mask)),
        "gpt": (_new(GptLayer), (torch.randn(2, 3, 16), cache)),
    }
