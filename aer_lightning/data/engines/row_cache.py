"""A key-value cache whose rows come and go while it is decoded from.

Rows are packed at the front of buffers that are allocated for a whole batch. A row that ends is overwritten by one from the
back, so dropping costs a copy of the dropped rows, not of the batch; a row that enters is written behind the last one. All rows
share one cursor (the column of the next token): a row that is shorter is padded on its left, which keeps distances between
columns equal to distances between tokens, as sliding-window masks need.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache


class RowLayer(CacheLayerMixin):
    """Keys and values of one attention layer, buffers ``[rows, H, columns, D]``. Sliding windows are left to the mask."""

    is_sliding = False

    def __init__(self, owner: RowCache) -> None:
        super().__init__()
        self.owner = owner
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: rows enter through :meth:`RowCache.admit`."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one token a row (``[N, H, 1, D]``) at the cursor; return the columns up to and with it."""
        assert self.keys is not None and self.values is not None
        rows, cursor = self.owner.rows, self.owner.cursor
        self.keys[:rows, :, cursor : cursor + 1] = key_states
        self.values[:rows, :, cursor : cursor + 1] = value_states
        return self.keys[:rows, :, : cursor + 1], self.values[:rows, :, : cursor + 1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of columns a query sees, and the first of them."""
        return self.owner.cursor + query_length, 0

    def get_seq_length(self) -> int:
        """Columns in use."""
        return self.owner.cursor

    def get_max_length(self) -> int:
        """No bound: :meth:`RowCache.make_room` grows the buffers."""
        return -1


class RowCache(Cache):
    """One :class:`RowLayer` per attention layer, ``rows`` rows in use, the next token at column ``cursor``."""

    layers: list[Any]

    def __init__(self, max_rows: int, cursor: int) -> None:
        super().__init__(layers=[])
        self.max_rows = max_rows
        self.rows = 0
        self.cursor = cursor

    def admit(self, prefilled: DynamicCache, source: torch.Tensor) -> None:
        """Append a row for each entry of ``source`` ``[M]``: the index of its prompt in ``prefilled`` (left padded, width <= cursor)."""
        filled: list[Any] = prefilled.layers
        for index, layer in enumerate(filled):
            keys, values = layer.keys, layer.values
            if index == len(self.layers):
                self.layers.append(RowLayer(self))
            mine, width = self.layers[index], keys.shape[2]
            if mine.keys is None:
                columns = self.cursor + 32
                # zeros, because what a row has not written is masked but still multiplied: it must be finite
                mine.keys = keys.new_zeros(self.max_rows, keys.shape[1], columns, keys.shape[3])
                mine.values = values.new_zeros(self.max_rows, values.shape[1], columns, values.shape[3])
            end = self.rows + len(source)
            mine.keys[self.rows : end, :, self.cursor - width : self.cursor] = keys[source]
            mine.values[self.rows : end, :, self.cursor - width : self.cursor] = values[source]
        self.rows += len(source)

    def drop(self, holes: torch.Tensor, movers: torch.Tensor, rows: int) -> None:
        """Keep ``rows`` rows: those at ``movers`` (>= rows) take the places ``holes`` (< rows)."""
        if len(holes):
            for layer in self.layers:
                for buffer in (layer.keys, layer.values):
                    used = buffer[:, :, : self.cursor]
                    used[holes] = used[movers]
        self.rows = rows

    def is_full(self) -> bool:
        """Whether the next token has no column yet."""
        return self.cursor == self.layers[0].keys.shape[2]

    def make_room(self, padding: int) -> int:
        """Free a column, by moving everything to the left or by larger buffers.

        Args:
            padding: columns on the left that no row uses.

        Returns:
            By how many columns everything moved to the left.
        """
        columns = self.layers[0].keys.shape[2]
        shift = padding if padding >= columns // 4 else 0
        for layer in self.layers:
            for name in ("keys", "values"):
                buffer = getattr(layer, name)
                if shift:
                    buffer[: self.rows, :, : self.cursor - shift] = buffer[: self.rows, :, shift : self.cursor].clone()
                else:
                    grown = buffer.new_zeros(*buffer.shape[:2], columns + max(32, columns // 2), buffer.shape[3])
                    grown[: self.rows, :, : self.cursor] = buffer[: self.rows, :, : self.cursor]
                    setattr(layer, name, grown)
        self.cursor -= shift
        return shift
