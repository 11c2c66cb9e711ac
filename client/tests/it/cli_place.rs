//! Where copies end up: the rules of cp as a table.

use client::cli::place::{Destination, Place, PlaceError, Source, place};

const NAME: Option<&[u8]> = Some(b"name");

#[test]
fn a_source_is_placed_as_cp_would() {
    use Destination::{Directory, File, Missing};
    let into = Ok(Place::Into(b"name"));
    let cases = [
        // Destination, ends in a slash, source's name, is a directory, one of many, result.
        (Directory, false, NAME, false, false, into),
        (Directory, true, NAME, true, false, into),
        (Directory, false, NAME, true, true, into),
        (Directory, false, None, true, false, Ok(Place::As)),
        (Missing, false, NAME, false, false, Ok(Place::As)),
        (Missing, false, NAME, true, false, Ok(Place::As)),
        (Missing, true, NAME, true, false, Ok(Place::As)),
        (Missing, true, NAME, false, false, Err(PlaceError::NoDirectory)),
        (Missing, false, NAME, false, true, Err(PlaceError::NotDirectory)),
        (File, false, NAME, false, false, Ok(Place::As)),
        (File, true, NAME, false, false, Err(PlaceError::NotDirectory)),
        (File, false, NAME, true, false, Err(PlaceError::FileInTheWay)),
        (File, false, NAME, false, true, Err(PlaceError::NotDirectory)),
    ];
    for (destination, as_folder, name, is_folder, one_of_many, expected) in cases {
        let source = Source { name, is_folder, one_of_many };
        let placed = place(source, destination, as_folder);
        assert_eq!(placed, expected, "{destination:?} {as_folder} {source:?}");
    }
}
