"""whisper2max.embedding: rows read out of panels of every format."""

import numpy as np
import pytest
from longhand import bfloat16, int8_rows


def test_rows_of_the_first_and_the_last_panel(rows):
    given, got = rows()
    tokens, vectors = given["tokens"], given["vectors"]
    np.testing.assert_array_equal(got["embedding"], vectors[tokens])
    np.testing.assert_array_equal(got["embedding_bfloat16"], bfloat16(vectors)[tokens])
    steps, scales = int8_rows(vectors)
    np.testing.assert_allclose(got["embedding_int8"], (steps * scales)[tokens], rtol=1e-6)


@pytest.mark.parametrize("token", [-1, 96])
def test_a_token_outside_the_table_is_refused(rows, token):
    with pytest.raises(Exception, match="a token lies outside of the table"):
        rows(tokens=np.full((2, 3), token))
