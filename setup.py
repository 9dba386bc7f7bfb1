"""The compiled hot path. Where it cannot be built the plain Python one is used (director/wire/hotpath.py)."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "director.wire._fast",
            ["director/wire/_fast.pyx"],
            depends=["director/wire/_fast.h", "director/wire/_fast.pxd", "director/wire/_md5.h"],
            optional=True,
        ),
        Extension("director.wire._names", ["director/wire/_names.pyx"], optional=True),
    ]
)
