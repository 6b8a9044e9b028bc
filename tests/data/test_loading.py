from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bcd.config.compose import with_defaults
from bcd.config.schema import DataConfig, SplitConfig
from bcd.data.catalog import Catalog
from bcd.data.datamodule import SmearDataModule
from bcd.data.load import load_catalog
from bcd.data.loading import ViewSampler
from bcd.data.reading import fit, read_image
from bcd.data.splits.split import Split, make_split
from bcd.data.views import PLAIN
from bcd.models.data_parallel import BatchShard
from tests.data.test_views import CONFIGS
from tests.helpers.noise import FOUR, write_classes

Batches = list[tuple[Tensor, Tensor]]
INDICES = [3, 5, 8, 9, 11, 20, 21]


@pytest.fixture(scope="module")
def smears(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    root = write_classes(tmp_path_factory.mktemp("smears"), count=9)
    return load_catalog(with_defaults(DataConfig, root=str(root)))


@pytest.fixture(scope="module")
def split(smears: Catalog) -> Split:
    return make_split(smears, with_defaults(SplitConfig))


def made(
    smears: Catalog, split: Split, data: DataConfig, augment: str, size: int, seed: int = 0
) -> SmearDataModule:
    augmented = CONFIGS[augment]
    return SmearDataModule(data, None, augmented, size, seed, catalog=smears, subsets=split)


def module(
    smears: Catalog, split: Split, workers: int = 0, seed: int = 0, augment: str = "strong"
) -> SmearDataModule:
    data = with_defaults(DataConfig, batch_size=4, num_workers=workers)
    return made(smears, split, data, augment, 32, seed)


def epochs(loader: DataLoader[tuple[Tensor, Tensor]], count: int) -> list[Batches]:
    made = []
    for epoch in range(count):
        assert isinstance(loader.sampler, ViewSampler)
        loader.sampler.set_epoch(epoch)
        made.append(list(loader))
    return made


def same(left: Batches, right: Batches) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a, b)
        for one, two in zip(left, right, strict=True)
        for a, b in zip(one, two, strict=True)
    )


def test_batches_are_the_same_for_any_number_of_workers(smears: Catalog, split: Split) -> None:
    alone = epochs(module(smears, split).train_dataloader(), 2)
    for workers in (1, 2):
        shared = epochs(module(smears, split, workers).train_dataloader(), 2)
        assert all(same(a, b) for a, b in zip(alone, shared, strict=True))
    assert not same(*alone)
    assert not same(alone[0], epochs(module(smears, split, seed=1).train_dataloader(), 1)[0])


def test_a_process_of_joblib_has_no_workers(
    smears: Catalog, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its way of starting processes would have to pickle what cannot be."""
    assert module(smears, split, 2).train_dataloader().num_workers == 2
    monkeypatch.setattr("multiprocessing.get_start_method", lambda: "loky")
    assert module(smears, split, 2).train_dataloader().num_workers == 0


def test_a_later_epoch_does_not_depend_on_those_before(smears: Catalog, split: Split) -> None:
    third = epochs(module(smears, split).train_dataloader(), 3)[2]
    loader = module(smears, split).train_dataloader()
    assert isinstance(loader.sampler, ViewSampler)
    loader.sampler.set_epoch(2)
    assert same(list(loader), third)


def test_batches_have_the_promised_form(smears: Catalog, split: Split) -> None:
    dm = module(smears, split)
    assert dm.trainer is None
    for loader in (dm.train_dataloader(), dm.val_dataloader(), dm.test_dataloader()):
        for images, labels in loader:
            assert images.dtype == torch.uint8
            assert images.shape[1:] == (3, 32, 32)
            assert images.is_contiguous(memory_format=torch.channels_last)
            assert labels.dtype == torch.int64
            assert len(labels) == len(images) <= 4


@pytest.mark.parametrize("subset", ["val", "test", "train"])
@pytest.mark.filterwarnings("error")
def test_plain_loaders_give_the_resized_images_in_order(
    subset: str, smears: Catalog, split: Split
) -> None:
    dm = module(smears, split)
    loader = {"val": dm.val_dataloader, "test": dm.test_dataloader}.get(
        subset, lambda: dm.plain_loader(subset)
    )()
    images = torch.cat([batch for batch, _ in loader]).permute(0, 2, 3, 1).numpy()
    labels = torch.cat([labels for _, labels in loader]).tolist()
    indices = split.indices(subset)
    assert labels == [smears.labels[i] for i in indices]
    files = [smears.root / smears.images[i].path for i in indices]
    np.testing.assert_array_equal(images, np.stack([fit(read_image(f), 32) for f in files]))


@pytest.mark.filterwarnings("error")
def test_images_of_the_wanted_size_need_no_resizing(smears: Catalog, split: Split) -> None:
    data = with_defaults(DataConfig, batch_size=64, num_workers=0)
    dm = made(smears, split, data, "strong", 40)
    (batch,) = list(dm.test_dataloader())
    first = read_image(smears.root / smears.images[split.indices("test")[0]].path)
    np.testing.assert_array_equal(batch[0][0].permute(1, 2, 0).numpy(), first)
    assert sum(len(labels) for _, labels in dm.train_dataloader()) == len(split.indices("train"))


def test_loading_leaves_the_global_random_states_alone(smears: Catalog, split: Split) -> None:
    import random

    dm = module(smears, split)
    before = (torch.get_rng_state(), random.getstate(), str(np.random.get_state()))
    for loader in (dm.train_dataloader(), dm.val_dataloader()):
        epochs(loader, 2)
    after = (torch.get_rng_state(), random.getstate(), str(np.random.get_state()))
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_global_seeds_change_no_batch(smears: Catalog, split: Split) -> None:
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        made.append(epochs(module(smears, split).train_dataloader(), 1)[0])
    assert same(*made)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_small_sets_are_read_without_workers_and_larger_ones_with(
    smears: Catalog, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    for batch_size, workers in ((64, 0), (1, 3)):
        data = with_defaults(DataConfig, batch_size=batch_size, num_workers=None)
        dm = made(smears, split, data, "none", 32)
        assert dm.train_dataloader().num_workers == workers


def test_epoch_e_draws_view_e_modulo_views_of_every_image_once() -> None:
    sampler = ViewSampler(INDICES, views=3, seed=0)
    orders = []
    for epoch in range(7):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert sorted(index for index, _ in keys) == INDICES
        assert {view for _, view in keys} == {epoch % 3}
        assert list(sampler) == keys
        orders.append([index for index, _ in keys])
    assert len({tuple(order) for order in orders}) == len(orders)


def test_the_order_depends_on_the_seed() -> None:
    keys = [list(ViewSampler(INDICES, views=5, seed=seed)) for seed in (0, 0, 1)]
    assert keys[0] == keys[1] != keys[2]


def test_without_views_images_come_plain_and_in_order() -> None:
    sampler = ViewSampler(INDICES, views=0, seed=0)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        assert list(sampler) == [(index, PLAIN) for index in INDICES]


@pytest.mark.parametrize("world", [2, 3, 4])
def test_processes_share_evaluation_without_repeats(world: int) -> None:
    ranks = [ViewSampler(INDICES, 0, seed=0, rank=rank, world=world) for rank in range(world)]
    assert sum(len(sampler) for sampler in ranks) == len(INDICES)
    assert sorted(index for sampler in ranks for index, _ in sampler) == INDICES


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 6, 7, 12, 13])
def test_batches_of_all_processes_together_are_those_of_one(world: int, count: int) -> None:
    whole, indices = 12, list(range(100, 100 + count))
    alone = ViewSampler(indices, 5, 0)
    ranks = [ViewSampler(indices, 5, 0, r, world, batch_size=whole) for r in range(world)]
    for epoch in range(3):
        for sampler in (alone, *ranks):
            sampler.set_epoch(epoch)
        keys, each = list(alone), whole // world
        parts = [list(sampler) for sampler in ranks]
        assert [len(part) for part in parts] == [len(sampler) for sampler in ranks]
        assert len({-(-len(part) // each) for part in parts}) == 1  # as many steps
        for step in range(-(-count // whole)):
            expected = keys[step * whole : (step + 1) * whole]
            batches = [part[step * each : (step + 1) * each] for part in parts]
            counted = [
                batch[: BatchShard(rank, world, len(expected)).count]
                for rank, batch in enumerate(batches)
            ]
            assert sorted(itertools.chain(*counted)) == sorted(expected)
            assert all(batches)  # a stand-in where none is left


def test_all_four_classes_are_fed(smears: Catalog, split: Split) -> None:
    labels = torch.cat([labels for _, labels in module(smears, split).train_dataloader()])
    assert sorted(set(labels.tolist())) == list(range(len(FOUR)))
