//! Traces that these tests write themselves.

use super::*;
use parquet::data_type::{DoubleType, Int32Type};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::sync::Arc;

/// Writes columns of whole numbers, and one of doubles, `None` being a null.
fn write(path: &Path, whole: &[(&str, &[i32])], double: (&str, &[Option<f64>])) {
    let fields: String = whole.iter().map(|(name, _)| format!("required int32 {name}; ")).collect();
    let schema = format!("message trace {{ {fields} optional double {}; }}", double.0);
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for (_, values) in whole {
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int32Type>().write_batch(values, None, None).unwrap();
        column.close().unwrap();
    }
    let levels: Vec<i16> = double.1.iter().map(|value| i16::from(value.is_some())).collect();
    let values: Vec<f64> = double.1.iter().copied().flatten().collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<DoubleType>().write_batch(&values, Some(&levels), None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn a_trace_is_read_in_our_units_and_what_is_missing_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bitbrains-rnd.parquet");
    let whole: [(&str, &[i32]); 8] = [
        ("vm", &[7, 7, 8]),
        ("cores", &[2, 2, 0]),
        ("cpu_cap_mhz", &[5000, 5000, 0]),
        ("cpu_mhz", &[2500, 0, 0]),
        ("mem_mib", &[100, 200, 0]),
        ("disk_read_kbs", &[1, 2, 0]),
        ("disk_write_kbs", &[3, 4, 0]),
        ("net_rx_kbs", &[5, 6, 0]),
    ];
    write(&path, &whole, ("net_tx_kbs", &[Some(7.5), None, Some(0.0)]));
    let traces = read_all(dir.path()).unwrap();
    let [trace] = &traces[..] else { panic!("one trace") };
    let usage = |values: [f32; 6]| Usage(values.map(Some));
    // 2500 MHz of cores of 2500 MHz are one core.
    assert_eq!(trace.vms["7"][0], usage([1000.0, 100.0, 1.0, 3.0, 5.0, 7.5]));
    assert_eq!(trace.vms["7"][1].0[5], None);
    assert_eq!(trace.vms["8"], [usage([0.0; 6])]);
}

#[test]
fn what_is_no_trace_is_refused_with_its_name_and_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let said = |dir: &Path| format!("{:#}", read_all(dir).err().unwrap());
    assert!(said(dir.path()).contains("has none of bitbrains-rnd.parquet, azure-2017-cpu.parquet"));
    let path = dir.path().join("azure-2017-cpu.parquet");
    write(&path, &[("set", &[1]), ("machine", &[1])], ("cpu_avg_pct", &[Some(1.0)]));
    assert!(said(dir.path()).contains("has no column vm; it has set, machine, cpu_avg_pct"));
    std::fs::write(&path, b"PAR1 this is none").unwrap();
    assert!(said(dir.path()).contains("azure-2017-cpu.parquet as Parquet"));
}
