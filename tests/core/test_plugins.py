"""Names that become functions, and options that are checked before anything starts."""

import math

import pytest

from distill_ray.core.plugins import PluginError, check_options, find, import_path


def scale(values, *, factor, offset=0.0):
    return [factor * v + offset for v in values]


TABLE = {"scale": scale, "scatter": print}


def test_a_short_name_is_looked_up_in_the_table():
    assert find("scale", TABLE) is scale


def test_a_name_with_a_colon_is_imported():
    assert find("math:sqrt", TABLE) is math.sqrt


def test_a_misspelt_name_is_refused_with_its_neighbour():
    with pytest.raises(PluginError, match=r"no 'scael'\. Did you mean 'scale'"):
        find("scael", TABLE)


def test_a_name_like_no_other_is_refused_with_the_whole_list():
    with pytest.raises(PluginError, match="Allowed: scale, scatter"):
        find("zzz", TABLE)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module_here:f", "can't be imported: No module named"),
        ("math:sqroot", "math has no 'sqroot'"),
        ("math:pi", "'math:pi' is not a function"),
        (":f", "':f' can't be imported: Empty module name"),
        (".x:f", "'.x:f' can't be imported"),
        ("math:", "math has no ''"),
    ],
)
def test_a_path_that_leads_nowhere_says_which_part_is_missing(path, message):
    with pytest.raises(PluginError, match=message):
        import_path(path)


def test_options_that_fit_pass():
    assert check_options(scale, {"factor": 2}) is None
    assert check_options(scale, {"factor": 2, "offset": 1}) is None


def test_an_unknown_option_is_refused_with_its_neighbour():
    with pytest.raises(PluginError, match=r"unknown option 'ofset'\. Did you mean 'offset'"):
        check_options(scale, {"factor": 2, "ofset": 1})


def test_a_positional_parameter_is_not_an_option():
    with pytest.raises(PluginError, match="unknown option 'values'"):
        check_options(scale, {"factor": 2, "values": []})


def test_a_required_option_must_be_there():
    with pytest.raises(PluginError, match="option 'factor' is required"):
        check_options(scale, {"offset": 1})
