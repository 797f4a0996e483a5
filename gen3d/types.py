"""The one legend of dimension letters, and array types that use them.

The same letters stand in code, docstrings, documentation and error messages:

| letter | meaning                                             |
|--------|-----------------------------------------------------|
| B      | batch                                               |
| N      | tokens                                              |
| C      | channels of a token                                 |
| D      | width of the transformer                            |
| H      | attention heads                                     |
| A      | position axes                                       |

jaxtyping annotations are checked at run time in the tests only.
"""

from jaxtyping import Bool, Float
from torch import Tensor

TokenValues = Float[Tensor, "B N C"]
TokenMask = Bool[Tensor, "B N"]
TokenPositions = Float[Tensor, "B N A"]
Times = Float[Tensor, "B"] | Float[Tensor, "B N"]
Conditions = dict[str, Tensor]
