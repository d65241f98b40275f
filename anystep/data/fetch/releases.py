"""The releases of the data sets: addresses, checksums, and what must be fetched by hand.

A checksum is copied from code that many people have run, never made up; the comment at each says
from where.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """One file of a release.

    name       its name in the folder of the data set; archives are unpacked there, others are kept
    holds      what must lie in the folder once it is unpacked; () for a plain file
    checksum   "md5:<hex>" or "sha256:<hex>"
    size       bytes, where somebody states them
    url        None: only a person can fetch it
    """

    name: str
    holds: tuple[str, ...]
    checksum: str
    size: int | None = None
    url: str | None = None


@dataclass(frozen=True)
class Release:
    """A data set as its authors give it.

    page      where its terms stand
    files     what is fetched
    by_hand   what a person must do, for files without a url or if there are no files
    nothing   why there is nothing to fetch
    """

    page: str = ""
    files: tuple[Archive, ...] = ()
    by_hand: str = ""
    nothing: str = ""


_TORONTO = "https://www.cs.toronto.edu/~kriz/"
_MENDELEY = "https://data.mendeley.com/public-files/datasets/{}/files/{}/file_downloaded"
_DOGS = "http://vision.stanford.edu/aditya86/ImageNetDogs/"
_FIGSHARE = "https://ndownloader.figshare.com/files/"

# SpikingJelly (datasets/cifar10_dvs.py) states number and MD5 of each; Matterhorn (data/aedat.py)
# has the same.
_CIFAR10_DVS = {
    "airplane": ("7712788", "0afd5c4bf9ae06af762a77b180354fdd"),
    "automobile": ("7712791", "8438dfeba3bc970c94962d995b1b9bdd"),
    "bird": ("7712794", "a9c207c91c55b9dc2002dc21c684d785"),
    "cat": ("7712812", "52c63c677c2b15fa5146a8daf4d56687"),
    "deer": ("7712815", "b6bf21f6c04d21ba4e23fc3e36c8a4a3"),
    "dog": ("7712818", "f379ebdf6703d16e0a690782e62639c3"),
    "frog": ("7712842", "cad6ed91214b1c7388a5f6ee56d08803"),
    "horse": ("7712851", "e7cbbf77bec584ffbf913f00e682782a"),
    "ship": ("7712836", "41c7bd7d6b251be82557c6cce9a7d5c9"),
    "truck": ("7712839", "89f3922fd147d9aeff89e76a2b0b70a7"),
}

_NOTHING = {
    "digits-dvs": "digits-dvs is made from the digits that scikit-learn brings along",
    "digits": "digits comes with scikit-learn",
    "cifar10-sim": "cifar10-sim is filmed from cifar10: get that, then run anystep data simulate",
    "events-folder": "events-folder reads recordings of your own",
    "image-folder": "image-folder reads images of your own",
}

# SHA-256 and size: tensorflow/datasets (url_checksums/cifar10.txt); gomlx (examples/cifar/cifar.go)
# states the same SHA-256. Codes that quote the authors' page have the MD5
# c32a1d4ab5d03f1284b67883e8d87530. The binary form is taken because the Python one is a pickle.
_CIFAR10 = Archive(
    "cifar-10-binary.tar.gz",
    ("cifar-10-batches-bin",),
    "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    170_052_171,
    _TORONTO + "cifar-10-binary.tar.gz",
)
# SHA-256 and size: tensorflow/datasets (url_checksums/cifar100.txt); gomlx and torchvision-ruby
# state the same SHA-256. The MD5 in other codes is 03b5dce01913d631647c71ecec9e9cb8.
_CIFAR100 = Archive(
    "cifar-100-binary.tar.gz",
    ("cifar-100-binary",),
    "sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    168_513_733,
    _TORONTO + "cifar-100-binary.tar.gz",
)
# Both MD5s: SpikingJelly (datasets/n_mnist.py) and Tonic (datasets/nmnist.py); the addresses are
# Tonic's.
_NMNIST = tuple(
    Archive(f"{part}.zip", (part,), digest, None, _MENDELEY.format("468j46mzdv", number))
    for part, digest, number in (
        ("Train", "md5:20959b8e626244a1b502305a9e6e2031", "39c25547-014b-4137-a934-9d29fa53c7a0"),
        ("Test", "md5:69ca8762b2fe404d9b9bad1103e97832", "05a4d654-7e03-4c15-bdfa-9bb2bcbea494"),
    )
)
# MD5: SpikingJelly (datasets/n_caltech101.py) and Tonic (datasets/ncaltech101.py). The address is
# in other people's scripts, which compare this MD5 with what it gives.
_NCALTECH101 = Archive(
    "Caltech101.zip",
    ("Caltech101",),
    "md5:66201824eabb0239c7ab992480b50ba3",
    None,
    _MENDELEY.format("cy6cvx3ryv", "36b5c52a-b49d-4853-addb-a836a8883e49"),
)
# MD5: SpikingJelly (datasets/dvs128_gesture.py) and Matterhorn (data/aedat.py).
_GESTURE = Archive("DvsGesture.tar.gz", ("DvsGesture",), "md5:8a5c71fb11e24e5ca5b11866ca6c00a1")
# SHA-256 and size: tensorflow/datasets (url_checksums/caltech_birds2011.txt); torchvision
# (prototype, cub200.py) and FastAI.jl state the same SHA-256. The MD5 in many codes is
# 97eceeb196236b17998738112f37df78.
_CUB = Archive(
    "CUB_200_2011.tgz",
    ("CUB_200_2011",),
    "sha256:0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
    1_150_585_339,
    "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
)
# SHA-256 and sizes: tensorflow/datasets (url_checksums/stanford_dogs.txt) and two download scripts.
# Data classes after torchvision's pattern state the MD5s 1bb1f2a596ae7057f99d7d75860002ef and
# edbb9f16854ec66506b5f09b583e0656.
_DOG_IMAGES = Archive(
    "images.tar",
    ("Images",),
    "sha256:a443fc2f9a851aa1a7b8e4fa4af94b8459fce2c9f5a2f4dd4669cf9673a4ec58",
    793_579_520,
    _DOGS + "images.tar",
)
_DOG_LISTS = Archive(
    "lists.tar",
    ("train_list.mat", "test_list.mat"),
    "sha256:34b47cacd9a98b5d150e084f24d29391c084c55272295ec65c85651bc35f4d6c",
    481_280,
    _DOGS + "lists.tar",
)
# MD5s: torchvision's StanfordCars from before it stopped to download, as a dozen repositories have
# copied it; sizes: tensorflow/datasets (url_checksums/cars196.txt).
_CARS = tuple(
    Archive(name, holds, f"md5:{digest}", size)
    for name, holds, digest, size in (
        ("cars_train.tgz", ("cars_train",), "065e5b463ae28d29e77c1b4b166cfe61", 979_269_282),
        ("cars_test.tgz", ("cars_test",), "4ce7ebf6a94d07f1952d94dd34c4d501", 977_350_468),
        ("car_devkit.tgz", ("devkit",), "c3b158d763b6e2245038c8ad08e45376", 330_960),
        ("cars_test_annos_withlabels.mat", (), "b0a2b23655a3edd16d84508592a98d10", 185_758),
    )
)

RELEASES: dict[str, Release] = {
    **{name: Release(nothing=why) for name, why in _NOTHING.items()},
    "cifar10": Release("https://www.cs.toronto.edu/~kriz/cifar.html", (_CIFAR10,)),
    "cifar100": Release("https://www.cs.toronto.edu/~kriz/cifar.html", (_CIFAR100,)),
    "nmnist": Release("https://www.garrickorchard.com/datasets/n-mnist", _NMNIST),
    "ncaltech101": Release("https://www.garrickorchard.com/datasets/n-caltech101", (_NCALTECH101,)),
    "cifar10-dvs": Release(
        "https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671",
        tuple(
            Archive(f"{name}.zip", (name,), f"md5:{digest}", None, _FIGSHARE + number)
            for name, (number, digest) in _CIFAR10_DVS.items()
        ),
    ),
    "dvs-gesture": Release(
        "https://ibm.ent.box.com/s/3hiq58ww1pbbjrinh367ykfdf60xsfm8/folder/50167556794",
        (_GESTURE,),
        by_hand="IBM gives it on a page that only a browser opens",
    ),
    "cub-200-2011": Release("https://data.caltech.edu/records/65de6-vp158", (_CUB,)),
    "stanford-dogs": Release(_DOGS, (_DOG_IMAGES, _DOG_LISTS)),
    "stanford-cars": Release(
        "https://github.com/pytorch/vision/issues/7545",
        _CARS,
        by_hand=(
            "its authors' addresses have gone, so these four files must come from somebody who has "
            "them. Another packing is not checked here: unpack it yourself so that the folder "
            "holds cars_train, cars_test, devkit and cars_test_annos_withlabels.mat"
        ),
    ),
    "imagenet-1k": Release(
        "https://image-net.org/download-images.php",
        by_hand=(
            "it needs an account. Fetch ILSVRC2012_img_train.tar (MD5 "
            "1d675b47d978889d74fa0da5fadfb00e) and ILSVRC2012_img_val.tar (MD5 "
            "29b22e2961454d5413ddabcf34fc5622; both as in torchvision), compare the MD5s, and "
            "unpack them into a folder for each class, train/<wnid>/*.JPEG and val/<wnid>/*.JPEG; "
            "or take the shards of Hugging Face's ILSVRC/imagenet-1k, data/*.parquet, which are "
            "read as they are"
        ),
    ),
}
