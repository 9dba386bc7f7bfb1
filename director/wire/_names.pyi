# The compiled twin keeps the contract of the plain one to the letter, so that is its type.
from director.core.placement.names import NameTable as NameTable
