"""Which names of Services the test cluster's DNS knows."""

from typing import Any

from tests.k8s.cluster.dns import records


def service(name: str, address: str | None) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "serving"}, "spec": {"clusterIP": address} if address else {}}


def endpoints(name: str, *addresses: dict[str, str]) -> dict[str, Any]:
    subsets = [{"addresses": list(addresses)}] if addresses else None
    return {"metadata": {"name": name, "namespace": "serving"}, "subsets": subsets}


def test_a_service_has_its_own_address_whatever_its_pods_have() -> None:
    found = records([service("proxy", "10.96.0.9")], [endpoints("proxy", {"ip": "10.244.1.2"})])
    assert found == "10.96.0.9 proxy.serving.svc.cluster.local\n"


def test_a_headless_service_has_those_of_its_pods_and_each_named_pod_its_own() -> None:
    pods = endpoints("etcd", {"ip": "10.244.1.2", "hostname": "etcd-0"}, {"ip": "10.244.2.2"})
    assert records([service("etcd", "None")], [pods]).splitlines() == [
        "10.244.1.2 etcd-0.etcd.serving.svc.cluster.local",
        "10.244.1.2 etcd.serving.svc.cluster.local",
        "10.244.2.2 etcd.serving.svc.cluster.local",
    ]


def test_a_service_without_pods_or_without_an_address_has_no_name() -> None:
    assert records([service("etcd", "None"), service("outside", None)], [endpoints("etcd")]) == ""
