"""Arrays by name that lie in one flat array."""

from collections.abc import Mapping


class NamedArrays(Mapping):
    """Views of one flat array, by name, such as "c3.weight"; `flat` is the array itself."""

    def __init__(self, flat, slots):
        self.flat = flat
        self._views = {name: flat[slot.offset:slot.offset + slot.size].reshape(slot.shape)
                       for name, slot in slots.items()}

    def __getitem__(self, name):
        if name not in self._views:
            raise KeyError(f"expected one of {', '.join(self._views)}, got {name!r}")
        return self._views[name]

    def __iter__(self):
        return iter(self._views)

    def __len__(self):
        return len(self._views)
