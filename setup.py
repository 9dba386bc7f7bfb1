"""The compiled hot path. Where it cannot be built the plain Python one is used (director/wire/hotpath.py)."""

import shutil
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build


class FreshBuild(build):
    """What an earlier build has left is removed: modules that are gone since would be installed again."""

    def run(self) -> None:
        for left in (self.build_lib, self.build_temp, *Path(self.build_base).glob("bdist.*")):
            shutil.rmtree(left, ignore_errors=True)
        super().run()


setup(
    cmdclass={"build": FreshBuild},
    ext_modules=[
        Extension(
            "director.wire._fast",
            ["director/wire/_fast.pyx"],
            depends=["director/wire/_fast.h", "director/wire/_fast.pxd", "director/wire/_md5.h"],
            optional=True,
        ),
        Extension("director.wire._names", ["director/wire/_names.pyx"], optional=True),
    ],
)
