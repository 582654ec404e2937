"""The data sets that are known: what their files are called and hold, and who has them."""

from dataclasses import dataclass

__all__ = ["DATASETS", "DataSet", "Edition", "File"]


@dataclass(frozen=True)
class File:
    """One file by its contents, in bytes: compressed copies of the same contents differ from place to place."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Edition:
    """One form in which the authors publish a data set: an archive with the files in a folder."""

    form: str  # "binary" or "python", see formats
    archive: str
    folder: str
    files: tuple[File, ...]


@dataclass(frozen=True)
class DataSet:
    """A data set that a Python package brings along has no files here, and nothing to fetch."""

    name: str
    licence: str
    comes_with: str = ""
    download_size: int = 0
    files: tuple[File, ...] = ()
    subfolders: tuple[str, ...] = ("",)  # of each place where data is looked for
    mirrors: tuple[str, ...] = ()
    debian_package: str = ""
    gzipped: bool = True  # the mirrors have each file as NAME.gz
    editions: tuple[Edition, ...] = ()  # instead of files; the first is the one to download


DATASETS = {
    "digits": DataSet("digits", licence="CC BY 4.0", comes_with="scikit-learn"),
    "fashion-mnist": DataSet(
        "fashion-mnist",
        licence="MIT",
        download_size=30_878_645,
        files=(
            File(
                "train-images-idx3-ubyte",
                47_040_016,
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ),
            File("train-labels-idx1-ubyte", 60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
            File(
                "t10k-images-idx3-ubyte", 7_840_016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
            ),
            File("t10k-labels-idx1-ubyte", 10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
        ),
        subfolders=("", "fashion-mnist", "FashionMNIST/raw"),  # the last is torchvision's
        mirrors=(
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            # The authors' own address, on a host that does not speak https; the checksum vouches for the contents.
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        debian_package="dataset-fashion-mnist",
    ),
    "cifar-10": DataSet(
        "cifar-10",
        licence="none given; cite the authors",
        download_size=170_052_171,
        mirrors=(
            "https://www.cs.toronto.edu/~kriz/",
            "https://cave.cs.toronto.edu/kriz/",  # where the authors' pages have moved to
            "https://web.archive.org/web/2020id_/https://www.cs.toronto.edu/~kriz/",
        ),
        editions=(
            Edition(
                "binary",
                "cifar-10-binary.tar.gz",
                "cifar-10-batches-bin",
                (
                    File(
                        "data_batch_1.bin",
                        30_730_000,
                        "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
                    ),
                    File(
                        "data_batch_2.bin",
                        30_730_000,
                        "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
                    ),
                    File(
                        "data_batch_3.bin",
                        30_730_000,
                        "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
                    ),
                    File(
                        "data_batch_4.bin",
                        30_730_000,
                        "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
                    ),
                    File(
                        "data_batch_5.bin",
                        30_730_000,
                        "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
                    ),
                    File(
                        "test_batch.bin", 30_730_000, "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"
                    ),
                ),
            ),
            Edition(
                "python",
                "cifar-10-python.tar.gz",
                "cifar-10-batches-py",
                (
                    File(
                        "data_batch_1", 31_035_704, "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd"
                    ),
                    File(
                        "data_batch_2", 31_035_320, "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8"
                    ),
                    File(
                        "data_batch_3", 31_035_999, "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9"
                    ),
                    File(
                        "data_batch_4", 31_035_696, "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b"
                    ),
                    File(
                        "data_batch_5", 31_035_623, "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154"
                    ),
                    File("test_batch", 31_035_526, "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831"),
                ),
            ),
        ),
    ),
    "cifar-100": DataSet(
        "cifar-100",
        licence="none given; cite the authors",
        download_size=168_513_733,
        mirrors=(
            "https://www.cs.toronto.edu/~kriz/",
            "https://cave.cs.toronto.edu/kriz/",  # where the authors' pages have moved to
            "https://web.archive.org/web/2020id_/https://www.cs.toronto.edu/~kriz/",
        ),
        editions=(
            Edition(
                "binary",
                "cifar-100-binary.tar.gz",
                "cifar-100-binary",
                (
                    File("train.bin", 153_700_000, "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"),
                    File("test.bin", 30_740_000, "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"),
                ),
            ),
            Edition(
                "python",
                "cifar-100-python.tar.gz",
                "cifar-100-python",
                (
                    File("train", 155_249_918, "735e79b04f092ca3d2e6d07f368c0a7d70d48c48d28865950cc24454cf45129b"),
                    File("test", 31_049_707, "4b67687d9933c4db8f0831104447f15b93774f4f464bd0516f0f0f2ac83b7864"),
                ),
            ),
        ),
    ),
    "war-and-peace": DataSet(
        "war-and-peace",
        licence="public domain in the USA",
        download_size=3_258_246,
        files=(
            File("warpeace_input.txt", 3_258_246, "fb66ba999dafe24017cdd59e04c56d385a9c8466993d374fd4c6f08b2142985e"),
        ),
        subfolders=("", "war-and-peace", "tolstoi"),
        mirrors=(
            "https://cs.stanford.edu/people/karpathy/char-rnn/",
            "https://web.archive.org/web/2020id_/https://cs.stanford.edu/people/karpathy/char-rnn/",
        ),
        gzipped=False,
    ),
}
