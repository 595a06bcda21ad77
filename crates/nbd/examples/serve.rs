//! Serves raw images over NBD until its standard input ends:
//! `serve unix:PATH|tcp:ADDRESS:PORT [--read-only] IMAGE...`

use std::error::Error;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use afterimage_block::{Access, RawDisk};
use afterimage_nbd::{Device, Export, Exports, ListenAddress, Server, ServerOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let read_only = arguments.iter().any(|argument| argument == "--read-only");
    arguments.retain(|argument| argument != "--read-only");
    let (address, images) = arguments
        .split_first()
        .ok_or("usage: serve unix:PATH|tcp:ADDRESS:PORT [--read-only] IMAGE...")?;
    let address: ListenAddress = address.parse()?;
    let exports: Result<Vec<Export>, Box<dyn Error>> = images
        .iter()
        .map(|image| {
            let device = if read_only {
                Device::ReadOnly(Arc::new(RawDisk::open(image, Access::ReadOnly)?))
            } else {
                Device::ReadWrite(Arc::new(RawDisk::open(image, Access::ReadWrite)?))
            };
            let stem = Path::new(image).file_stem().unwrap_or_default();
            Ok(Export {
                name: stem.to_string_lossy().into_owned(),
                description: image.clone(),
                device,
            })
        })
        .collect();
    let exports = Exports::new(exports?)?;
    let uris: Vec<String> = exports.iter().map(|e| e.name.clone()).collect();
    let server = Server::bind(&address, exports, ServerOptions::default())?;
    for name in uris {
        println!("{}", server.uri(&name));
    }
    io::stdin().read_to_end(&mut Vec::new())?;
    server.stop();
    Ok(())
}
