//! Deliberately broken variants of the rules: each weaker wording of protocol-review.md, for the simulator to catch.

/// `mutant!(self, Name)`: whether this engine breaks the rule of that name. Always false without the feature.
macro_rules! mutant {
    ($engine:expr, $name:ident) => {{
        #[cfg(feature = "mutants")]
        {
            $engine.mutant == Some($crate::mutant::Mutant::$name)
        }
        #[cfg(not(feature = "mutants"))]
        {
            $crate::mutant::is_none(stringify!($name))
        }
    }};
}
pub(crate) use mutant;

/// There are no variants. With the name as an argument, conditions that ask for two are not taken for doubled ones.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub(crate) const fn is_none(_name: &str) -> bool {
    false
}

#[cfg(feature = "mutants")]
macro_rules! mutants {
    ($($name:ident $text:literal;)*) => {
        /// A broken variant.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutant {
            $(#[doc = $text] $name,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[(Mutant, &str, &str)] = &[$((Mutant::$name, stringify!($name), $text),)*];
        }
    };
}

#[cfg(feature = "mutants")]
mutants! {
    ResumeTerm "R1: a restarted process resumes the term the manifest gives its node";
    PromiseNotDurable "R2: a promise is not stored";
    PromiseBeforeSync "R2: a promise reports the durable log while entries accepted earlier are still being synced, and count later";
    AcceptBelowPromise "R2: entries are accepted below the promise";
    ConfirmBelowPromise "R2: reads are confirmed below the promise";
    PrimaryIgnoresOwnPromise "R2: the Primary's own promise does not stop its own appends";
    AdoptWithoutPromise "R2: adopting chunks of a term does not raise the promise";
    SkipOnConflict "R3: on a conflict the next number is tried";
    NoSeal "R4: no seal";
    NoCheckAfterSeal "R4: no LIST after sealing";
    SealAfterHigherTerm "R4: a chunk of a higher term is adopted like any other";
    SnapshotWithoutTerm "R4: a snapshot does not tell the term of the last chunk it covers";
    NoTailUpload "R4: the tail is not uploaded before serving";
    NoTailNoTermCheck "R4 and R5: no tail upload, and earlier terms commit by count";
    ReadBeforeReady "R9: a new Primary answers reads before seal and tail are done";
    ServeBeforeSeal "R4 and R7: followers are served before the seal";
    CommitQuorumMinusOne "R5: one copy too few commits";
    AckBeforeSync "R5: receipts before the entry is durable";
    IgnoreIncarnation "R11: incarnations are not looked at";
    ElectionQuorumMinusOne "R6: one promise too few elects";
    PickAnyPromiser "R6: any promiser is picked";
    PickByIndexOnly "R6: candidates are compared by last index only";
    BlindManifestWrite "R6: the manifest is written without condition";
    ElectionWritesQuorum "R6: an election writes its own configuration's quorum, too";
    ReconcileAlwaysTruncates "R7: own entries past the common prefix are always deleted";
    OldMessageTruncates "R7: an old message deletes entries of the Primary's own term";
    CommitUnverified "R8: the commit index is applied to entries not verified with the Primary";
    ReplicaAheadOfPrimary "R8: a replica shows what it reads from the object log";
    NoReadCheck "R9: reads are answered unchecked";
    RoundServesLaterReads "R9: a round serves reads that arrived after it was sent";
    ConfirmQuorumMinusOne "R9: one confirmation too few";
    JointReadsOldOnly "R9: only the old voters confirm reads while a change is under way";
    NoLeaseWait "R9: a new Primary does not wait for old leases";
    LeaseWaitForWritesOnly "R9: the wait holds back writes only";
    LeaseDuringChange "R9: the lease is used while a change is undecided";
    LeaseFromAnswer "R9: the lease counts from the answer, not from when the read was sent";
    SameNodeSkipsLeaseWait "R9: a Primary whose node was the one before does not wait, though that one may never have waited";
    NoJoint "R10: the new rule counts at once";
    ChangeBeforeReady "R10: voters are changed before R4 is finished, looking at what is committed only";
    ChangeSkipsCatchUp "R10: step 2 is skipped";
    QuorumChangeUnchecked "R10: step 2 is skipped where only the quorum changes";
    OldManifestMeansFailed "R10: a read that still shows the old manifest counts as failure";
    AbaEtag "R1: contents of the manifest may repeat";
    GcNewest "section 6: clean-up may delete the newest chunk";
    SealsDeleted "section 6: seals are deleted like chunks";
    SnapshotPastObjectLog "section 6: a snapshot covers more than the object log holds";
    OverwriteChunks "R3: chunks are overwritten";
    ForgetBootCounter "R11: a database that is behind its registration goes on";
    ReleasedLeaseUsed "R9: a lease that was given up for ever is used again while the manifest says so";
    ReadsUnverified "R9 and R12: a replica answers from what it shows, though it was not compared with the Primary's log since that Primary's term began";
    HaltOnRecovered "R12: a node whose log holds what an operator gave up halts";
    GivenUpComesBack "R12: a node with entries that an operator gave up is elected for them, and goes on with them";
    KeptForgotten "R12: a node without what a recovery kept is elected before the one that has it served";
    HaltUnlearned "R12: a node that differs from the object log halts before it has read whether an operator gave that up";
    UnprovenAnswers "R9, driver: an answer that made no entry leaves unproven";
    CommitBeforeProves "R9, driver: the commit of an entry that was there before a request proves that this is still the Primary";
    ProofAlone "R8 and R9, driver: an answer that saw what is not committed leaves once this is proven to be the Primary";
    ReadsBeforeShown "R9, driver: a proven read is answered before this node shows its index";
    ForwardAgain "R8, driver: a request that was sent on without an answer is sent on again";
    UploadAnswerOfAnyTerm "R3, driver: an upload's answer is taken for that of the chunk in flight, whichever it was of";
    RaiseBootFirst "R11, driver: the stored boot counter is raised before it is compared";
    RowsGoBeforeLogged "section 6, driver: a compaction deletes rows that the object log does not have yet";
    DeadRowsGoBeforeLogged "section 6, driver: rows of leases and compactions that say nothing any more go before the object log has their entries";
    RowsOfNewestGo "section 6, driver: rows of a compaction go that became visible after it was asked what the object log has";
    FoldUnchecked "section 6: a segment is written without a look at the chunk after it";
    RenewalLeavesNoEntry "R9, driver: a lease is renewed in a term that has no entry, so that an end by a Primary of before comes back";
    RecoverByTimer "R12: a timer gives lost voters up";
}
