# The compiled twins keep the contract of the plain ones to the letter, so those are their types.
from director.core.placement.assign import Assigner as Assigner
from director.core.placement.users import UserTable as UserTable
from director.wire.auth import rewrite as rewrite
