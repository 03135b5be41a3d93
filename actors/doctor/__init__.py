"""What `ccapi doctor` looks at: whether a gateway with these settings could answer turns here.

`examine` runs the checks one after another and gives their findings as they come. Each check is one
function in the file of its subject (`cli`, `storage`, `machine`, `configuration`), has a bound of
its own, and ends with what the operator can do about it. None asks the model anything, but for the
turn that the operator asks for.
"""
