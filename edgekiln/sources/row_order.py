"""Find out what a conversion of tensors does, by converting numbers of elements in place of the tensors."""

from typing import Any

import numpy as np
import numpy.typing as npt


def numbered(rows: int, columns: int, first: int, dtype: Any) -> npt.NDArray[Any]:
    """A matrix of the numbers of its elements, row by row, from those of row `first` on."""
    return np.arange(first * columns, (first + rows) * columns, dtype=dtype).reshape(rows, columns)


def row_order(numbers: npt.NDArray[Any], columns: int) -> npt.NDArray[np.int64] | None:
    """The rows that make a converted matrix.

    Args:
        numbers: [N, K] or [K, N], the matrices of `numbered` after their conversion.
        columns: K, of the matrices before it.

    Returns:
        int64 [N], the row of each row (of each column of [K, N]), counted through all matrices; None if the conversion
        does more than move whole rows, and transpose the result.
    """
    for matrix in (numbers, numbers.T):
        rows = matrix[:, 0] // columns
        if matrix.shape[1] == columns and np.array_equal(matrix, rows[:, None] * columns + np.arange(columns)):
            return rows.astype(np.int64)
    return None
