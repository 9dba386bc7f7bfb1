# The compiled twin has exactly the interface of the plain class, so that is its type.
from director.core.placement.names import NameTable as NameTable
