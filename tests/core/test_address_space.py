import resource
import sys

import pytest

from whisper2max.core.address_space import NEEDED_BY_MAX, require_room_for_max
from whisper2max.core.errors import UsageError


@pytest.mark.parametrize(
    ("limit", "loaded", "refused"),
    [
        (1 << 30, False, True),
        (NEEDED_BY_MAX, False, True),
        (1 << 50, False, False),
        (resource.RLIM_INFINITY, False, False),
        (1 << 30, True, False),
    ],
)
def test_a_limit_under_which_max_would_end_the_process(monkeypatch, limit, loaded, refused):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    if loaded:
        monkeypatch.setitem(sys.modules, "max.driver", sys)
    else:
        monkeypatch.delitem(sys.modules, "max.driver", raising=False)
    if refused:
        with pytest.raises(UsageError, match="too low for MAX"):
            require_room_for_max()
    else:
        require_room_for_max()
