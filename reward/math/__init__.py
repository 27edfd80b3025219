r"""A response that should end in a mathematical answer: text in, verdict out.

    response --extract--> answer --tidy--> the same text as the reference's? --> SCORED 1
                                       --> both plain numbers?               --> SCORED by exact arithmetic
                                       --> within bounds?                    --> worker process: math-verify and sympy

The last step runs where it can be killed: about half of hostile expressions hold a core for as long as they are let.
"""
