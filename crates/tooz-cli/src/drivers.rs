//! `tooz drivers`.

use anyhow::Result;
use serde_json::json;

use crate::output::Output;

pub(crate) fn run(out: Output) -> Result<u8> {
    let drivers = tooz::registry().drivers();
    if out.json {
        let drivers: Vec<_> = drivers
            .iter()
            .map(|driver| {
                let characteristics = driver.characteristics.iter().map(|c| c.name());
                json!({
                    "name": driver.name,
                    "schemes": driver.schemes,
                    "characteristics": characteristics.collect::<Vec<_>>(),
                    "features": driver.features.iter().map(|f| f.name()).collect::<Vec<_>>(),
                })
            })
            .collect();
        out.value(&drivers.into())?;
        return Ok(0);
    }
    for driver in drivers {
        let schemes: Vec<_> = driver.schemes.iter().map(|scheme| format!("{scheme}://")).collect();
        out.line(&format!("{}  {}", driver.name, schemes.join(" ")))?;
        out.line(&format!("  ensures  {}", driver.characteristics))?;
        out.line(&format!("  features {}", driver.features))?;
    }
    Ok(0)
}
