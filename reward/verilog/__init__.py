"""A response that should be a Verilog design: text in, verdict out, by simulation.

    response --extract--> source --design--> Design (parsed, checked, safe to share a simulation)
                                                |
    reference --problem--> ports, stimuli ------+--simulate--> sampled outputs --examine--> Findings --ladder--> Verdict
                 (generated, or recorded from a testbench)     (compared, or played back to the testbench)

What the simulator sees of a response are the tokens the parser accepted, never its text. What decides is the comparison
of sampled outputs here, or a testbench that is given those outputs as data; the design runs in neither.
"""
