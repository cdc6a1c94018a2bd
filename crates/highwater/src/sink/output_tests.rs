//! What an output takes, keeps, cuts and refuses.

use super::*;
use std::io::Read;

/// A path in a directory of its own.
struct Output {
    dir: tempfile::TempDir,
    path: PathBuf,
}

impl Output {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        Output { dir, path }
    }

    fn with(content: &str) -> Self {
        let output = Output::new();
        fs::write(&output.path, content).unwrap();
        output
    }

    fn content(&self) -> String {
        fs::read_to_string(&self.path).unwrap()
    }

    fn open(&self, resume: Resume<Written>) -> Result<LineWriter, SinkError> {
        let mut writer = LineWriter::new("out", Some(self.path.clone()), SpareBuffers::default());
        writer.open(&resume).map(|()| writer)
    }

    fn start(&self, resume: Resume<Written>) -> LineWriter {
        let mut writer = self.open(resume).unwrap();
        writer.restore(&new_start()).unwrap();
        writer
    }
}

/// What a writer is told at its start.
fn new_start() -> Start {
    Start { store: 1, execution: highwater_store::Execution(1), resume: Epoch(7) }
}

fn at(bytes: u64) -> Resume<Written> {
    Resume::At { epoch: Epoch(7), position: Written(bytes) }
}

fn block(text: &str) -> LineBlock {
    LineBlock::of(text.as_bytes())
}

#[test]
fn lines_stand_in_order_and_the_position_is_the_length() {
    let output = Output::new();
    let mut writer = output.start(Resume::Unwritten { ours: false });
    assert_eq!(writer.flush(Epoch(8), true).unwrap(), Flushed::at(Written(0)));
    writer.write(&mut block("a\nb\n")).unwrap();
    assert_eq!(writer.flush(Epoch(8), true).unwrap(), Flushed::at(Written(4)));
    writer.write(&mut block("c\n")).unwrap();
    assert_eq!(writer.flush(Epoch(8), false).unwrap(), Flushed::at(Written(6)));
    writer.idle().unwrap();
    assert_eq!(output.content(), "a\nb\nc\n", "nothing waits when there is nothing to do");
    let long = "long\n".repeat(WAITING_BYTES_MAX);
    writer.write(&mut block("d\n")).unwrap();
    writer.write(&mut block(&long)).unwrap();
    assert_eq!(output.content(), format!("a\nb\nc\nd\n{long}"), "what is long takes what waits along");
    writer.write(&mut block("e\n")).unwrap();
    writer.end().unwrap();
    assert_eq!(output.content(), format!("a\nb\nc\nd\n{long}e\n"));
}

#[test]
fn a_resumed_file_is_cut_to_its_position_and_goes_on_there() {
    let output = Output::with("a\nb\ntorn li");
    let mut writer = output.open(at(4)).unwrap();
    assert_eq!(output.content(), "a\nb\ntorn li", "checking changes nothing");
    writer.restore(&new_start()).unwrap();
    assert_eq!(output.content(), "a\nb\n");
    writer.write(&mut block("c\n")).unwrap();
    assert_eq!(writer.flush(Epoch(8), true).unwrap(), Flushed::at(Written(6)));
    assert_eq!(output.content(), "a\nb\nc\n");
}

#[test]
fn a_file_that_lost_what_is_committed_is_refused_and_left_alone() {
    let output = Output::with("a\n");
    let refused = output.open(at(4)).unwrap_err();
    assert!(matches!(refused, SinkError::Behind { has: 2, needs: 4, .. }), "{refused}");
    assert_eq!(output.content(), "a\n");
    fs::remove_file(&output.path).unwrap();
    assert!(matches!(output.open(at(4)), Err(SinkError::Behind { has: 0, needs: 4, .. })));
    assert!(!output.path.exists());
    output.start(at(0));
    assert_eq!(output.content(), "", "nothing was committed, so nothing is missed");
}

#[test]
fn content_that_is_not_ours_is_kept_and_ours_is_started_over() {
    let output = Output::with("precious\n");
    let refused = output.open(Resume::Unwritten { ours: false }).unwrap_err();
    assert!(matches!(refused, SinkError::Foreign { has: 9, .. }), "{refused}");
    assert_eq!(output.content(), "precious\n");
    output.start(Resume::Unwritten { ours: true });
    assert_eq!(output.content(), "");
    fs::write(&output.path, "last run\n").unwrap();
    output.start(Resume::Fresh);
    assert_eq!(output.content(), "", "without a store every run starts over");
}

#[test]
fn one_run_at_a_time_writes_a_file() {
    let output = Output::with("a\n");
    let first = output.start(at(2));
    assert!(matches!(output.open(at(2)), Err(SinkError::Locked { .. })));
    assert!(matches!(output.open(Resume::Fresh), Err(SinkError::Locked { .. })), "not even a run without a store");
    drop(first);
    output.start(at(2));
    assert_eq!(output.content(), "a\n");

    let created_by_another = Output::new();
    let mut late = created_by_another.open(Resume::Fresh).unwrap();
    let _first = created_by_another.start(Resume::Fresh);
    assert!(matches!(late.restore(&new_start()), Err(SinkError::Locked { .. })), "both found no file; one made it");
}

#[test]
fn what_cannot_be_created_is_said_before_a_record_is_read() {
    let output = Output::new();
    let refused = |path: PathBuf| match LineWriter::new("out", Some(path), SpareBuffers::default()).open(&Resume::Fresh)
    {
        Err(SinkError::Create { source, .. }) => source.kind(),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(output.dir.path().to_owned()), ErrorKind::IsADirectory);
    assert_eq!(refused(output.dir.path().join("none/out")), ErrorKind::NotFound);
    fs::write(&output.path, "").unwrap();
    assert_eq!(refused(output.path.join("out")), ErrorKind::NotADirectory);
}

#[test]
fn a_file_that_is_cut_or_deleted_while_it_is_written_is_noticed() {
    let cut: fn(&Path) = |path| fs::write(path, "").unwrap();
    let deleted: fn(&Path) = |path| fs::remove_file(path).unwrap();
    let flush: fn(&mut LineWriter) -> Result<(), SinkError> = |writer| writer.flush(Epoch(8), true).map(drop);
    let idle: fn(&mut LineWriter) -> Result<(), SinkError> = |writer| writer.idle().map(drop);
    let long = "a\n".repeat(WAITING_BYTES_MAX);
    for (harm, due) in [(cut, 2), (deleted, 4)] {
        for then in [flush, idle] {
            // What does not wait has been written by then, and nothing may follow it.
            let output = Output::new();
            let mut writer = output.start(Resume::Fresh);
            writer.write(&mut block(&long)).unwrap();
            harm(&output.path);
            assert!(matches!(then(&mut writer), Err(SinkError::Behind { has: 0, .. })));

            let output = Output::new();
            let mut writer = output.start(Resume::Fresh);
            writer.write(&mut block("a\n")).unwrap();
            then(&mut writer).unwrap();
            harm(&output.path);
            writer.write(&mut block("b\n")).unwrap();
            assert!(matches!(then(&mut writer), Err(SinkError::Behind { has: 0, needs, .. }) if needs == due));
        }
    }
}

#[test]
fn a_created_file_has_the_rights_that_the_umask_leaves() {
    use std::os::unix::fs::PermissionsExt;
    let output = Output::new();
    output.start(Resume::Unwritten { ours: false });
    let beside = output.dir.path().join("beside");
    File::create(&beside).unwrap();
    let mode = |path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&output.path), mode(&beside));
}

#[test]
fn a_full_device_is_an_error_and_not_an_end() {
    let mut writer = LineWriter::new("/dev/full", Some("/dev/full".into()), SpareBuffers::default());
    writer.open(&Resume::Fresh).unwrap();
    writer.restore(&new_start()).unwrap();
    let failed = writer.write(&mut block("a\n")).unwrap_err();
    assert!(matches!(&failed, SinkError::Io { source, .. } if source.kind() == ErrorKind::StorageFull), "{failed}");
}

#[test]
fn a_full_disk_tells_how_much_is_free() {
    let output = Output::with("");
    let writer = output.open(Resume::Fresh).unwrap();
    let SinkError::Io { free: Some(_), .. } = writer.cannot_write(ErrorKind::StorageFull.into(), true) else {
        panic!("free bytes are known where the file is")
    };
    assert!(writer.cannot_write(io::Error::other("x"), true).to_string().ends_with("output out"));
}

/// A pipe with a reader, and a writer on it.
fn pipe() -> (Output, File, LineWriter) {
    let output = Output::new();
    assert!(std::process::Command::new("mkfifo").arg(&output.path).status().unwrap().success());
    let path = output.path.clone();
    let reader = std::thread::spawn(move || File::open(path).unwrap());
    let writer = output.start(at(100));
    (output, reader.join().unwrap(), writer)
}

#[test]
fn a_pipe_gets_every_line_and_has_no_position() {
    let (_output, mut reader, mut writer) = pipe();
    let lines = "x".repeat(99) + "\n";
    let reading = std::thread::spawn(move || {
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        all
    });
    for _ in 0..100 {
        writer.write(&mut block(&lines.repeat(100))).unwrap();
        assert_eq!(writer.flush(Epoch(8), true).unwrap(), Flushed::nothing());
    }
    drop(writer);
    assert_eq!(reading.join().unwrap(), lines.repeat(10_000));
}

#[test]
fn a_pipe_whose_reader_is_gone_is_closed() {
    let (_output, reader, mut writer) = pipe();
    drop(reader);
    assert!(matches!(writer.write(&mut block("a\n")), Err(SinkError::Closed { .. })));
}

/// Takes so many bytes at a time, says every other time that it is full, and notes what it got.
struct Narrow {
    bytes_max: usize,
    pieces: Vec<Vec<u8>>,
    full: bool,
}

impl Write for Narrow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.full = !self.full;
        if self.full {
            return Err(ErrorKind::WouldBlock.into());
        }
        let taken = &bytes[..bytes.len().min(self.bytes_max)];
        self.pieces.push(taken.to_vec());
        Ok(taken.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stream_gets_whole_lines_in_pieces_that_cannot_be_torn() {
    let lines = ["a".repeat(3000), "b".repeat(1095), "c".repeat(9000), "d".into()].map(|line| line + "\n");
    let mut stream = Narrow { bytes_max: usize::MAX, pieces: Vec::new(), full: false };
    write_lines(&mut stream, lines.concat().as_bytes()).unwrap();
    let sizes: Vec<usize> = stream.pieces.iter().map(Vec::len).collect();
    assert_eq!(sizes, [3001, 1096, 9001, 2], "3001 + 1096 are one byte too many for a piece");
    let mut stream = Narrow { bytes_max: 700, pieces: Vec::new(), full: false };
    write_lines(&mut stream, lines.concat().as_bytes()).unwrap();
    assert_eq!(stream.pieces.concat(), lines.concat().as_bytes(), "partly taken, wholly written");
}
