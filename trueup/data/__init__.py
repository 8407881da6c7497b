"""Column contracts, readers and validation: whatever the user brings becomes one `Table`."""

from trueup.data.contracts import CONTRACTS
from trueup.data.messages import Message, Prompt
from trueup.data.reading import read
from trueup.data.table import Row, Table

__all__ = ["CONTRACTS", "Message", "Prompt", "Row", "Table", "read"]
