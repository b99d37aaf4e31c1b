"""survey.cluster: a survey on a Dask cluster. In: its address, batches. Out: what came of each, as it comes.

The workers must see the same files under the same names (shared storage), and have elfolio installed. A batch whose
worker is lost goes to another one, by Dask's own doing; a batch only reads, so that twice is no harm.
"""

from collections.abc import Iterator

from elfolio.survey.examine import Batch, Examined, examine

__all__ = ["address_of", "examine_on"]

_PATIENCE = 10.0
"""Seconds to find the scheduler in."""


def address_of(url: str) -> str:
    """`dask://HOST:PORT` as Dask writes it. Raises ValueError for any other scheme."""
    scheme, separator, place = url.partition("://")
    if scheme != "dask" or not separator or not place:
        raise ValueError(f"{url!r} is no cluster's address, such as dask://scheduler:8786")
    return f"tcp://{place}"


def examine_on(url: str, batches: list[Batch]) -> Iterator[Examined]:
    """Has the cluster at `url` examine the batches. Raises ImportError without Dask, OSError where there is no cluster,
    and ConnectionError where the scheduler gives a batch up: by default when three workers died over it
    (distributed.scheduler.allowed-failures)."""
    from distributed import Client, KilledWorker, as_completed

    try:
        client = Client(address_of(url), timeout=_PATIENCE, set_as_default=False)
    except OSError as error:
        raise ConnectionError(
            f"no cluster answers at {url}; start one: dask scheduler, dask worker HOST:PORT"
        ) from error
    with client:
        if not client.scheduler_info()["workers"]:
            raise ConnectionError(f"the cluster at {url} has no workers; start one: dask worker HOST:PORT")
        # Not pure: the same batch may have other results a minute later.
        futures = client.map(examine, batches, pure=False)
        try:
            for future in as_completed(futures, loop=client.loop):
                yield future.result()
        except ImportError as error:
            raise ConnectionError(f"the workers of {url} lack elfolio, or have another version: {error}") from error
        except KilledWorker as error:
            raise ConnectionError(f"workers of {url} die over and over: {error}") from error
